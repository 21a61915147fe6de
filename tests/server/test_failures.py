from types import SimpleNamespace
from typing import Any

import pytest
from vllm.entrypoints.serve import create_error_response
from vllm.exceptions import QueueOverflowError, VLLMNotFoundError, VLLMValidationError

from server.errors import ApiError
from server.failures import Failures, infer_param


def failures(body: Any = None) -> Failures:
    request: Any = SimpleNamespace(state=SimpleNamespace(body=body))
    return Failures(None, request, frozenset({"prompt", "stop"}))


def test_a_validation_error_of_vllm_loses_the_value_it_quotes() -> None:
    error = VLLMValidationError("stop must be text", parameter="stop", value="SECRET")
    mapped = failures({"stop": "SECRET"}).from_exception(error)
    assert (mapped.status_code, mapped.param, mapped.detail) == (400, "stop", "stop must be text")
    mapped = failures({"stop": "SECRET"}).from_vllm(create_error_response(error))
    assert "SECRET" not in mapped.detail
    assert mapped.detail == "stop must be text"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ValueError("bad"), 400, "invalid_value"),
        (VLLMNotFoundError("gone"), 404, "not_found"),
        (QueueOverflowError(), 503, "overloaded"),
        (RuntimeError("SECRET"), 500, "internal_error"),
        (ApiError(413, "m", code="payload_too_large"), 413, "payload_too_large"),
    ],
)
def test_each_kind_of_error_has_its_status(error: Exception, status: int, code: str) -> None:
    mapped = failures().from_exception(error)
    assert (mapped.status_code, mapped.code) == (status, code)
    assert "SECRET" not in str(mapped.body())


@pytest.mark.parametrize(
    ("message", "body", "param"),
    [
        ("top_k must be 0 or more, got -7.", {"top_k": -7}, "top_k"),
        ("`tools` must not be empty", {"tools": []}, "tools"),
        ("Grammar error: no", {"response_format": {}}, "response_format"),
        ("maximum context length is 8", {"messages": []}, "messages"),
        ("maximum context length is 8", {"prompt": ""}, "prompt"),
        ("something else", {"n": 1}, None),
    ],
)
def test_the_field_is_inferred_where_vllm_names_none(
    message: str, body: dict[str, Any], param: str | None
) -> None:
    assert infer_param(message, body) == param
