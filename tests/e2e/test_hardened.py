"""A server with TLS, named keys, limits by key, tight connections, an allowed origin and client templates."""

import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from openai import OpenAI

from tests.e2e.client import CHAT, TEXT, Http, connection, wait_for
from tests.e2e.process import Decant, serving, survivors
from tests.e2e.test_bad_requests import error_of
from tests.server.certificates import Authority

KEY = "the-key-of-the-lab"
POOR = "the-key-of-the-poor"
ORIGIN = "https://chat.example.org"
CONNECTIONS = 12


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture(scope="module")
def hardened(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    folder: Path = tmp_path_factory.mktemp("hardened")
    certificate, key = authority.issue("server")
    keys = [f"lab sha256:{hashlib.sha256(KEY.encode()).hexdigest()}", f"poor {POOR}"]
    flags = ["--tls.certfile", str(certificate), "--tls.keyfile", str(key), "--api-keys", json.dumps(keys)]
    flags += ["--limits-by-key", json.dumps({"poor": {"tokens_per_minute": 40}})]
    flags += ["--connections.most", str(CONNECTIONS), "--connections.header-seconds", "2"]
    flags += ["--connections.body-seconds", "2", "--cors-origins", ORIGIN, "--allow-chat-templates"]
    flags += ["--limits.grammar-seconds", "1"]
    with serving(folder / "log", *flags) as running:
        yield running
        tried = [p for p in running.descendants() if "server.grammars.worker" in " ".join(p.cmdline())]
        assert len(tried) == 1
        running.terminate()
        assert running.exit_status(30) == 0
        assert not survivors(tried)
        log = running.output()
    assert "key=lab" in log
    assert KEY not in log
    assert POOR not in log


@pytest.fixture(scope="module")
def trusted(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.certificate))


@pytest.fixture(scope="module")
def https(hardened: Decant, trusted: ssl.SSLContext) -> Iterator[Http]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=hardened.url, headers=headers, verify=trusted, timeout=120) as session:
        yield Http(session)


def test_it_is_served_by_https_only(hardened: Decant, https: Http) -> None:
    assert hardened.url.startswith("https://")
    assert https.post_ok("chat", CHAT)["choices"]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{hardened.port}/health", timeout=10)
    assert https.get("/health").headers["x-content-type-options"] == "nosniff"


def test_a_key_that_has_used_up_its_tokens_waits_and_others_do_not(
    hardened: Decant, trusted: ssl.SSLContext, https: Http
) -> None:
    with httpx.Client(verify=trusted, timeout=60) as session:
        poor = OpenAI(base_url=f"{hardened.url}/v1", api_key=POOR, max_retries=0, http_client=session)
        first = poor.completions.with_raw_response.create(**TEXT, extra_body={"ignore_eos": True})
        usage = first.parse().usage
        assert usage is not None
        assert first.headers["x-ratelimit-limit-tokens"] == "40"
        assert int(first.headers["x-ratelimit-remaining-tokens"]) <= 40 - usage.total_tokens + 2
        with pytest.raises(openai.RateLimitError) as raised:
            spend_all(poor)
    assert raised.value.code == "rate_limit_exceeded"
    assert int(raised.value.response.headers["retry-after"]) >= 1
    assert https.post_ok("text", TEXT)
    assert https.metric("decant_rate_limited_total", key="poor") >= 1
    assert https.metric("decant_key_tokens_total", key="poor") >= usage.total_tokens
    assert https.metric("decant_key_tokens_total", key="lab") > 0


def spend_all(client: OpenAI) -> None:
    for _ in range(10):
        client.completions.create(**TEXT, extra_body={"ignore_eos": True})


def test_a_preflight_needs_no_key(hardened: Decant, trusted: ssl.SSLContext) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    response = httpx.options(f"{hardened.url}/v1/completions", headers=headers, verify=trusted)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, ORIGIN)


def test_a_template_of_the_client_is_used_where_the_operator_allows_it(https: Http) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    plain = {"model": "demo", "prompt": "The capital of", "add_special_tokens": False}
    chat: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "The capital of"}]}
    tokens = https.post_ok("/tokenize", {**chat, "chat_template": template, "add_generation_prompt": False})
    assert tokens["tokens"][-3:] == https.post_ok("/tokenize", plain)["tokens"][-3:]
    own = https.post_ok("chat", {**CHAT, "chat_template": template})
    assert own["usage"]["prompt_tokens"] < https.post_ok("chat", CHAT)["usage"]["prompt_tokens"]


def test_an_explosive_regex_stops_neither_server_nor_engine(https: Http) -> None:
    """Several at once: others are answered meanwhile, and afterwards, with and without a grammar."""
    answers: list[httpx.Response] = []

    def send(letter: str) -> None:
        body = {**TEXT, "structured_outputs": {"regex": f"[{letter}-z]*" * 8000}}
        answers.append(https.post("text", body))

    threads = [threading.Thread(target=send, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    assert https.post_ok("chat", CHAT)["choices"]
    for thread in threads:
        thread.join(120)
    assert [error_of(answer, 400)["param"] for answer in answers] == ["structured_outputs"] * 4
    digits = https.post_ok("text", {**TEXT, "structured_outputs": {"regex": "[0-9]{3}"}})
    assert digits["choices"][0]["text"].isdigit()
    wait_for(lambda: https.running("base") == 0, 10, "nothing is left in the engine")


def secure(hardened: Decant, trusted: ssl.SSLContext) -> ssl.SSLSocket:
    sock = socket.create_connection(("127.0.0.1", hardened.port), timeout=60)
    return trusted.wrap_socket(sock, server_hostname="127.0.0.1")


@pytest.mark.parametrize("sent", [b"", b"POST /v1/completions HTTP/1.1\r\nX: y\r\n"])
def test_a_slow_header_is_cut_off(hardened: Decant, trusted: ssl.SSLContext, sent: bytes) -> None:
    with secure(hardened, trusted) as sock:
        sock.sendall(sent)
        assert sock.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_slow_body_is_cut_off(hardened: Decant, trusted: ssl.SSLContext) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with secure(hardened, trusted) as sock:
        sock.sendall(head.encode())
        assert sock.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_connections_beyond_the_cap_are_closed(
    hardened: Decant, trusted: ssl.SSLContext, https: Http
) -> None:
    held = []
    try:
        refused = b""
        for _ in range(CONNECTIONS + 1):
            sock = secure(hardened, trusted)
            held.append(sock)
            sock.settimeout(0.2)
            try:
                if refused := sock.recv(4096):
                    break
            except TimeoutError:
                continue
        assert refused.startswith(b"HTTP/1.1 503 ")
    finally:
        for sock in held:
            sock.close()

    def answers() -> bool:
        with httpx.Client(verify=trusted, timeout=10) as session:
            return session.get(f"{hardened.url}/health").status_code == 200

    wait_for(answers, 10, "connections are taken again")


def test_silent_connections_before_tls_do_not_stop_it(hardened: Decant, https: Http) -> None:
    with connection(("127.0.0.1", hardened.port), b""), connection(("127.0.0.1", hardened.port), b"\x16\x03"):
        assert https.get("/health").status_code == 200
        assert psutil.pid_exists(hardened.pid)
