"""What is wrong before any field is looked at: bytes, JSON, headers, routes, methods."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.bad_requests import MARK
from tests.e2e.client import CHAT, JSON, KEY, TEXT, Http, connection, raw_post
from tests.e2e.conftest import BODY_BYTES
from tests.e2e.test_bad_requests import error_of

pytestmark = pytest.mark.usefixtures("still_answers")

ROUTES = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"]


def good_text(**more: str) -> bytes:
    """A completion request whose `more` fields are given as JSON text."""
    fields = {key: json.dumps(value) for key, value in TEXT.items()} | more
    return ("{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}").encode()


BODIES: dict[str, bytes] = {
    "empty": b"",
    "bad UTF-8": f'{{"model":"demo","prompt":"{MARK}'.encode() + b'\xff\xfe"}',
    "truncated UTF-8": f'{{"model":"demo","prompt":"{MARK}'.encode() + b"\xe2\x82",
    "truncated": f'{{"model":"demo","prompt":"{MARK}'.encode(),
    "no JSON": MARK.encode(),
    "two values": b'{"model":"demo"} ' + f'"{MARK}"'.encode(),
    "array": f'["{MARK}"]'.encode(),
    "string": f'"{MARK}"'.encode(),
    "number": b"7",
    "null": b"null",
    "deep array": b"[" * 5000 + b"]" * 5000,
    "deep object": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "deep, unclosed": b'{"prompt":' + b"[" * 5000,
    "deep in a field": good_text(vllm_xargs="[" * 5000 + "]" * 5000),
    "lone surrogate": good_text(user=f'"{MARK}\\ud800"'),
    "lone surrogate as bytes": good_text(user='"x"').replace(b'"x"', b'"\xed\xa0\x80"'),
    "single quotes": f"{{'model':'{MARK}'}}".encode(),
    "comment": good_text().replace(b"{", b"{ // " + MARK.encode() + b"\n"),
    "control character": good_text(user=f'"{MARK}\x01"'),
    "byte order mark and rubbish": b"\xef\xbb\xbf" + MARK.encode(),
    "UTF-16": good_text().decode().encode("utf-16"),
}
NUMBERS = {
    "NaN": "NaN",
    "Infinity": "Infinity",
    "minus Infinity": "-Infinity",
    "1e999": "1e999",
    "minus 1e999": "-1e999",
    "huge integer": "1" + "0" * 400,
    "very huge integer": "9" * 5000,
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_json_object_is_refused(http: Http, path: str, name: str) -> None:
    response = http.request("POST", path, content=BODIES[name], headers=JSON)
    assert error_of(response, 400)["code"] == "invalid_json"


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("field", ["temperature", "seed", "max_tokens"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_not_finite_is_refused(http: Http, name: str, field: str, stream: str) -> None:
    body = good_text(**{field: NUMBERS[name], "stream": stream})
    error = error_of(http.request("POST", "/v1/completions", content=body, headers=JSON), 400)
    if error["code"] != "invalid_json":  # NaN and Infinity are not JSON at all
        assert error["param"] == field
    assert NUMBERS[name] not in error["message"]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_deep_inside_that_is_not_finite_is_refused(http: Http, name: str) -> None:
    inside = good_text(vllm_xargs=f'{{"a":[1,{NUMBERS[name]}]}}')
    error_of(http.request("POST", "/v1/completions", content=inside, headers=JSON), 400)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", MARK]
)
@pytest.mark.parametrize("path", ROUTES)
def test_another_content_type_is_refused(http: Http, path: str, kind: str) -> None:
    response = http.request("POST", path, content=good_text(), headers={"Content-Type": kind})
    assert error_of(response, 415)["code"] == "unsupported_media_type"


def test_a_missing_content_type_is_refused(http: Http) -> None:
    error_of(http.request("POST", "/v1/completions", content=good_text()), 415)


def test_content_type_may_name_a_charset(http: Http) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert http.request("POST", "/v1/completions", content=good_text(), headers=headers).status_code == 200


@pytest.mark.parametrize("path", ROUTES)
def test_a_body_over_the_limit_is_refused_when_declared(http: Http, path: str) -> None:
    body = good_text(user=f'"{MARK * (BODY_BYTES // len(MARK) + 1)}"')
    error = error_of(http.request("POST", path, content=body, headers=JSON), 413)
    assert error["code"] == "payload_too_large"
    assert str(BODY_BYTES) in error["message"]


@pytest.mark.parametrize("path", ROUTES)
def test_a_body_over_the_limit_is_refused_when_chunked(http: Http, path: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(BODY_BYTES // 10_000 + 1):
            yield MARK.encode() * (10_000 // len(MARK) + 1)
        yield b'"}'

    assert (
        error_of(http.request("POST", path, content=chunks(), headers=JSON), 413)["code"]
        == "payload_too_large"
    )


def test_a_declared_body_over_the_limit_is_refused_before_it_is_sent(http: Http) -> None:
    request = raw_post("/v1/completions", b"", {"Content-Length": str(10 * BODY_BYTES)})
    with connection(http.address, request) as sock:
        sock.settimeout(10)
        assert sock.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_within_the_limit_is_read(http: Http) -> None:
    response = http.request(
        "POST", "/v1/completions", content=iter([good_text()[:9], good_text()[9:]]), headers=JSON
    )
    assert response.status_code == 200


@pytest.mark.parametrize(
    "path", [f"/{MARK}", f"/v1/{MARK}", "/v1/chat", "/v1/completions/", "/docs", "//health"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_route_is_not_found(http: Http, method: str, path: str) -> None:
    url = httpx.URL(str(http.session.base_url)).copy_with(raw_path=path.encode())
    assert error_of(http.request(method, url), 404)["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("DELETE", "/v1/completions"),
        ("PUT", "/tokenize"),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models/demo"),
        ("POST", "/health"),
        ("PATCH", "/metrics"),
    ],
)
def test_a_wrong_method_is_refused_and_the_right_one_named(http: Http, method: str, path: str) -> None:
    response = http.request(method, path)
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"]


@pytest.mark.parametrize("name", [MARK, f"demo:{MARK}", f"{MARK}/{MARK}", f"{MARK}%2f..", "%00", "%ff"])
def test_an_unknown_model_is_not_found(http: Http, name: str) -> None:
    url = httpx.URL(str(http.session.base_url)).copy_with(raw_path=f"/v1/models/{name}".encode())
    assert error_of(http.request("GET", url), 404)["code"] == "model_not_found"


# ---- below HTTP's surface ------------------------------------------------------------------------------

AUTHORISED = f"Host: x\r\nAuthorization: Bearer {KEY}\r\n"
MALFORMED: dict[str, str] = {
    "rubbish": f"{MARK}\r\n\r\n",
    "content length is text": f"POST /v1/completions HTTP/1.1\r\n{AUTHORISED}Content-Length: {MARK}\r\n\r\n",
    "content length is negative": f"POST /v1/completions HTTP/1.1\r\n{AUTHORISED}Content-Length: -5\r\n\r\n",
    "two content lengths": f"POST /v1/completions HTTP/1.1\r\n{AUTHORISED}Content-Length: 5\r\n"
    "Content-Length: 6\r\n\r\n{}",
    "length and chunks": f"POST /v1/completions HTTP/1.1\r\n{AUTHORISED}Content-Length: 5\r\n"
    "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": f"POST /v1/completions HTTP/1.1\r\n{AUTHORISED}Content-Type: application/json\r\n"
    f"Transfer-Encoding: chunked\r\n\r\n{MARK}\r\n",
    "header without a colon": f"GET /v1/models HTTP/1.1\r\n{AUTHORISED}{MARK}\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_is_refused_or_cut_off(http: Http, name: str) -> None:
    """Nothing that is not HTTP is answered with 200 or 5xx, and nothing of it comes back."""
    answer = everything(http, MALFORMED[name].encode())
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:300]
    assert MARK.encode() not in answer
    assert len(answer) < 8192


@pytest.mark.parametrize("size", [100_000, 2_000_000])
def test_a_huge_header_is_refused(http: Http, size: int) -> None:
    header = MARK * (size // len(MARK))
    request = f"GET /v1/models HTTP/1.1\r\n{AUTHORISED}Connection: close\r\nX-Long: {header}\r\n\r\n"
    answer = everything(http, request.encode())
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:300]
    assert MARK.encode() not in answer


def everything(http: Http, data: bytes) -> bytes:
    """All that comes back on a connection the server closes."""
    received = b""
    try:
        with connection(http.address, data) as sock:
            sock.settimeout(10)
            while part := sock.recv(65536):
                received += part
    except (ConnectionResetError, BrokenPipeError):
        pass
    return received


def test_a_bad_request_does_not_end_the_connection(http: Http) -> None:
    """Keep-alive survives a refused body: the next request on the connection is read from where it begins."""
    bad = raw_post("/v1/completions", b'{"prompt": 7}')
    good = raw_post("/v1/chat/completions", json.dumps(CHAT).encode(), {"Connection": "close"})
    answer = everything(http, bad + good).decode()
    assert answer.startswith("HTTP/1.1 400 ")
    assert answer.count("HTTP/1.1 200 OK") == 1


def test_many_bad_requests_at_once_leave_nothing_behind(http: Http) -> None:
    bodies: list[dict[str, Any]] = [{**TEXT, "n": 0}, {**TEXT, "prompt": [99_999_999]}, {**TEXT, "stop": ""}]
    statuses = {
        http.post("text", {**body, "stream": stream}).status_code for body in bodies * 10 for stream in (0, 1)
    }
    assert statuses == {400}
    assert http.in_flight() == 0
