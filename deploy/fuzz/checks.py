"""What every answer must satisfy beyond its documentation; importing registers it with schemathesis."""

import json
from collections.abc import Iterator
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, Response

LARGEST = 8192  # bytes of an error's body
TELLING = 12  # characters from which a value of the request is taken to be recognised in an answer


@schemathesis.check
def states_errors_well(ctx: CheckContext, response: Response, case: Case) -> bool | None:
    """An error has OpenAI's body, of less than 8 KB, that does not repeat the request's values."""
    if response.status_code < 400:
        return None
    where = f"{case.operation.label} answered {response.status_code}"
    assert len(response.content) < LARGEST, f"{where} with {len(response.content)} bytes"
    if case.method == "HEAD":
        return None
    error = json.loads(response.content)
    assert error.keys() == {"error"}, f"{where} with another body than an error's"
    assert error["error"].keys() == {"message", "type", "param", "code"}, where
    message = error["error"]["message"]
    own = json.dumps(case.operation.schema.raw_schema)
    for value in _texts(case.body):
        assert len(value) < TELLING or value not in message or value in own, f"{where}, repeating a value"
    return None


@schemathesis.check
def is_up_or_says_why_not(ctx: CheckContext, response: Response, case: Case) -> bool | None:
    """No 5xx but a 503 that says when to come again."""
    if response.status_code == 503:
        assert "retry-after" in response.headers, f"{case.operation.label}: a 503 without Retry-After"
        return None
    assert response.status_code < 500, f"{case.operation.label} answered {response.status_code}"
    return None


def _texts(value: Any) -> Iterator[str]:
    """Every string in the values of a body; names of fields are the API's own, or named in errors."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
