"""TLS over real sockets, with certificates made for the test."""

import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import ValidationError

from server.config import ServeSettings
from server.protocol import BoundedProtocol
from server.tls import TlsSettings
from tests.server.certificates import Authority
from tests.server.test_protocol import running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), "authority")


def settings(authority: Authority, **more: Any) -> TlsSettings:
    certfile, keyfile = authority.issue("server")
    return TlsSettings(certfile=certfile, keyfile=keyfile, **more)


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.certificate))


async def get(port: int, context: ssl.SSLContext) -> str:
    async with httpx.AsyncClient(verify=context, timeout=10) as http:
        return (await http.get(f"https://127.0.0.1:{port}/")).text


def secured(tls: TlsSettings) -> Any:
    context = tls.context()
    return running(BoundedProtocol, ssl_context_factory=lambda *_: context)


async def test_https_is_spoken_and_http_is_not(authority: Authority) -> None:
    async with secured(settings(authority)) as (_, port):
        assert await get(port, trusting(authority)) == "ok"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await get(port, ssl.create_default_context())
        async with httpx.AsyncClient(timeout=10) as http:
            with pytest.raises(httpx.TransportError):
                await http.get(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("least", "offered", "spoken"),
    [
        ("1.2", "TLSv1_1", False),
        ("1.2", "TLSv1_2", True),
        ("1.3", "TLSv1_2", False),
        ("1.3", "TLSv1_3", True),
    ],
)
async def test_no_older_version_is_spoken(
    authority: Authority, least: Any, offered: str, spoken: bool
) -> None:
    client = trusting(authority)
    client.set_ciphers("ALL:@SECLEVEL=0")  # else the client itself would not offer what is old
    client.minimum_version = ssl.TLSVersion.TLSv1
    client.maximum_version = ssl.TLSVersion[offered]
    async with secured(settings(authority, min_version=least)) as (_, port):
        if spoken:
            assert await get(port, client) == "ok"
        else:
            with pytest.raises(httpx.TransportError):
                await get(port, client)


async def test_clients_must_show_a_certificate_where_a_ca_is_given(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    async with secured(settings(authority, client_ca=authority.certificate)) as (_, port):
        stranger, wrong, known = (trusting(authority) for _ in range(3))
        wrong.load_cert_chain(*other.issue("client"))
        known.load_cert_chain(*authority.issue("client"))
        assert await get(port, known) == "ok"
        for context in (stranger, wrong):
            with pytest.raises(httpx.TransportError):
                await get(port, context)


def test_files_that_cannot_be_used_are_errors_of_the_configuration(
    authority: Authority, tmp_path: Path
) -> None:
    certfile, keyfile = authority.issue("one")
    other = authority.issue("two")[1]
    locked = authority.issue("locked", password=b"SECRET")
    text = tmp_path / "text"
    text.write_text("none")
    bad: list[tuple[dict[str, Any], str]] = [
        ({"certfile": certfile}, "go together"),
        ({"client_ca": certfile}, "needs certfile"),
        ({"certfile": tmp_path / "none", "keyfile": keyfile}, "No such file"),
        ({"certfile": certfile, "keyfile": other}, "(?i)mismatch"),
        ({"certfile": certfile, "keyfile": text}, "cannot be used"),
        ({"certfile": locked[0], "keyfile": locked[1]}, "unencrypted"),
        ({"certfile": certfile, "keyfile": keyfile, "client_ca": text}, "cannot be used"),
        ({"certfile": certfile, "keyfile": keyfile, "min_version": "1.0"}, "1.2"),
    ]
    for tls, says in bad:
        with pytest.raises(ValidationError, match=says):
            ServeSettings(model=None, tls=tls)
    assert ServeSettings(model=None).tls.context() is None


def test_uvicorn_takes_the_context_as_it_is(authority: Authority) -> None:
    context = settings(authority).context()
    config = uvicorn.Config("x:y", ssl_context_factory=lambda *_: context, log_config=None)
    assert context is not None
    assert config.is_ssl
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
