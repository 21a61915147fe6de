"""Bad requests get a 4xx with OpenAI's body that names the field and repeats nothing; the server goes on."""

from typing import Any

import httpx
import pytest

from tests.e2e.bad_requests import BY_ROUTE, LEAVE_OUT, MARK, TOKENIZER, Bad
from tests.e2e.client import CHAT, PROMPT, TEXT, Http

pytestmark = pytest.mark.usefixtures("still_answers")

# Sampled, so that n > 1 is not what is wrong with a request.
GOOD: dict[str, dict[str, Any]] = {
    "chat": {**CHAT, "temperature": 1},
    "text": {**TEXT, "temperature": 1},
    "/tokenize": {"model": "demo", "prompt": PROMPT},
    "/detokenize": {"model": "demo", "tokens": [5, 6]},
}
GENERATING = [
    pytest.param(route, case, stream, id=f"{route}{'-stream' if stream else ''}-{case.name}")
    for route, cases in BY_ROUTE.items()
    for case in cases
    for stream in case.streams
]
TOKENIZING = [
    pytest.param(route, case, id=f"{route[1:]}-{case.name}")
    for route, cases in TOKENIZER.items()
    for case in cases
]


@pytest.mark.parametrize(("route", "case", "stream"), GENERATING)
def test_a_bad_request_is_refused(http: Http, route: str, case: Bad, stream: bool) -> None:
    changed = {**GOOD[route], **({"stream": True} if stream else {}), **case.change}
    body = {key: value for key, value in changed.items() if value is not LEAVE_OUT}
    check(http.post(route, body), case)


@pytest.mark.parametrize(("route", "case"), TOKENIZING)
def test_a_bad_tokenizer_request_is_refused(http: Http, route: str, case: Bad) -> None:
    changed = {**GOOD[route], **case.change}
    check(http.post(route, {key: value for key, value in changed.items() if value is not LEAVE_OUT}), case)


def check(response: httpx.Response, case: Bad) -> None:
    error = error_of(response, case.status)
    param = error["param"]
    named = param is not None and (param == case.param or param.startswith(f"{case.param}."))
    assert named, f"param is {param!r}, expected {case.param!r}: {error['message']}"
    if case.code is not None:
        assert error["code"] == case.code


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a response that is what every error must be."""
    assert response.status_code == status, response.text[:1000]
    assert MARK not in response.text
    assert MARK not in str(response.headers)
    assert response.headers["content-type"] == "application/json"
    assert len(response.content) < 8192
    body = response.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert isinstance(error["param"], str | None)
    assert isinstance(error["code"], str | None)
    return error
