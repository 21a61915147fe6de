"""API keys: required on every path but the open ones, however the path or the header is written."""

import json
import re

import httpx
import openai
import pytest
from openai import OpenAI

from tests.e2e.bad_requests import MARK
from tests.e2e.client import CHAT, FILE_KEY, JSON, KEY, SECOND_KEY, TEXT, Http, connection
from tests.e2e.process import Decant
from tests.e2e.test_bad_requests import error_of

ROUTES = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/demo"),
    ("GET", "/v1/decoding/methods"),
    ("GET", "/metrics"),
    ("GET", "/version"),
    ("GET", "/openapi.json"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
]
UNKNOWN = [("GET", f"/{MARK}"), ("POST", "/v1/nothing"), ("DELETE", "/v1/models"), ("OPTIONS", "/v1/models")]
TRICKS = [
    "//health",
    "/health/",
    "/health/../v1/models",
    "/health/..%2fv1/models",
    "/health%2f",
    "/health%2f..%2fv1%2fmodels",
    "/health;/v1/models",
    "/health%00",
    "/health%20",
    "/HEALTH",
    "/./health",
    "/v1/../v1/models",
    "/v1/models%2f",
    "/%76%31/models",
    "/v1/models?path=/health",
    "/v1/models#/health",
    "/v1//models",
    "/ready/../metrics",
    "http://x/v1/models",
    "http://127.0.0.1/health/../v1/models",
    "*",
]


def refused(response: httpx.Response) -> None:
    error = error_of(response, 401)
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.fixture(scope="module")
def stranger(http: Http) -> httpx.Client:
    """A client without a key."""
    return httpx.Client(base_url=http.session.base_url, timeout=60)


@pytest.mark.parametrize(("method", "path"), [*ROUTES, *UNKNOWN])
def test_no_route_answers_without_a_key(stranger: httpx.Client, method: str, path: str) -> None:
    refused(stranger.request(method, path))


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_are_open(stranger: httpx.Client, path: str) -> None:
    assert stranger.get(path).status_code == 200
    assert stranger.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 200


@pytest.mark.parametrize("key", [KEY, SECOND_KEY, FILE_KEY])
def test_every_configured_key_works(stranger: httpx.Client, key: str) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        given = stranger.get("/v1/models", headers={"Authorization": f"{scheme} {key}"})
        assert given.status_code == 200


WRONG = {
    "wrong key": f"Bearer {MARK}",
    "prefix of a key": f"Bearer {KEY[:-1]}",
    "a key and more": f"Bearer {KEY}x",
    "two keys": f"Bearer {KEY} {SECOND_KEY}",
    "upper case": f"Bearer {KEY.upper()}",
    "no scheme": KEY,
    "another scheme": f"Basic {KEY}",
    "scheme only": "Bearer",
    "comment of the keys file": "Bearer # keys of the tests",
    "quoted": f'Bearer "{KEY}"',
    "empty": "",
    "very long": f"Bearer {MARK * 500}",
    "not ASCII": f"Bearer {KEY}é",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_key_is_refused(stranger: httpx.Client, name: str) -> None:
    header = {b"Authorization": WRONG[name].encode()}
    refused(stranger.get("/v1/models", headers=header))
    refused(
        stranger.post(
            "/v1/completions",
            content=json.dumps(TEXT),
            headers={**header, b"Content-Type": b"application/json"},
        )
    )


def test_two_authorization_headers_are_refused(stranger: httpx.Client) -> None:
    headers = [("Authorization", f"Bearer {MARK}"), ("Authorization", f"Bearer {KEY}")]
    refused(stranger.get("/v1/models", headers=headers))


def test_a_key_elsewhere_than_in_the_header_is_not_looked_at(stranger: httpx.Client) -> None:
    refused(stranger.get("/v1/models", params={"api_key": KEY, "key": KEY}))
    refused(stranger.get("/v1/models", headers={"X-Api-Key": KEY, "Api-Key": KEY}))
    refused(stranger.get("/v1/models", cookies={"Authorization": f"Bearer {KEY}"}))


def test_the_openai_client_is_told(client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as raised:
        client.with_options(api_key=MARK).chat.completions.create(**CHAT)
    assert raised.value.code == "invalid_api_key"
    assert client.with_options(api_key=SECOND_KEY).chat.completions.create(**CHAT).choices


def test_a_bad_body_is_not_read_without_a_key(stranger: httpx.Client) -> None:
    for body in (b"\xff", b"[" * 5000, b"{" + b" " * 500_000):
        refused(stranger.post("/v1/completions", content=body, headers=JSON))


# ---- tricks with path and Host -------------------------------------------------------------------------


def status_of(http: Http, target: str, host: str, headers: str = "", method: str = "GET") -> tuple[int, str]:
    """Status and text of a request whose target is sent as it is."""
    request = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"
    received = b""
    with connection(http.address, request.encode("latin-1")) as sock:
        sock.settimeout(10)
        while part := sock.recv(65536):
            received += part
    head = re.match(rb"HTTP/1\.1 (\d{3}) ", received)
    return int(head.group(1)) if head else 0, received.decode("utf-8", "replace")


@pytest.mark.parametrize("target", TRICKS)
def test_a_path_that_is_not_exactly_an_open_one_needs_a_key(http: Http, target: str) -> None:
    status, text = status_of(http, target, "127.0.0.1")
    assert status in (400, 401), text[:300]
    assert '"data"' not in text


@pytest.mark.parametrize(
    "host", ["x/health", "x/health?", "x#/health", "127.0.0.1/health?", "@x/health", "", "[::1"]
)
@pytest.mark.parametrize("target", ["/v1/models", "/metrics", "/openapi.json"])
def test_a_host_header_opens_nothing(http: Http, target: str, host: str) -> None:
    status, text = status_of(http, target, host)
    assert status in (400, 401), text[:300]


@pytest.mark.parametrize(
    "header",
    [
        "X-Original-URL: /health",
        "X-Rewrite-URL: /health",
        "X-Forwarded-Prefix: /health",
        "X-Forwarded-Host: x/health",
        "X-Forwarded-For: 127.0.0.1",
        "X-HTTP-Method-Override: GET",
        "Forwarded: for=127.0.0.1;host=x/health",
    ],
)
def test_a_proxys_headers_open_nothing(http: Http, header: str) -> None:
    assert status_of(http, "/v1/models", "127.0.0.1", f"{header}\r\n")[0] == 401


def test_old_http_without_headers_is_not_let_in(http: Http) -> None:
    with connection(http.address, b"GET /v1/models\r\n\r\n") as sock:
        sock.settimeout(10)
        assert b'"data"' not in sock.recv(65536)
    with connection(http.address, b"GET /v1/models HTTP/1.0\r\n\r\n") as sock:
        assert b" 401 " in sock.recv(65536)


@pytest.mark.parametrize("value", ["Bearer ", "Bearer\t", " ", "Bearer\x0b"])
def test_an_empty_key_is_refused(http: Http, value: str) -> None:
    assert status_of(http, "/v1/models", "127.0.0.1", f"Authorization: {value}\r\n")[0] in (400, 401)


def test_a_websocket_is_refused(http: Http) -> None:
    upgrade = (
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    request = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n{upgrade}\r\n"
    with connection(http.address, request.encode()) as sock:
        sock.settimeout(10)
        assert re.match(rb"HTTP/1\.1 40[0-9] ", sock.recv(65536))


def test_no_key_is_ever_logged(http: Http, server: Decant) -> None:
    http.get("/v1/models")
    log = server.output()
    assert "serving demo" in log
    assert not any(key in log for key in (KEY, SECOND_KEY, FILE_KEY))
