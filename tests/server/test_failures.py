from types import SimpleNamespace
from typing import Any

import pytest
from vllm.entrypoints.serve import create_error_response
from vllm.exceptions import QueueOverflowError, VLLMNotFoundError, VLLMValidationError

from server.errors import ApiError
from server.failures import Failures, infer_param


def failures(body: Any = None) -> Failures:
    request: Any = SimpleNamespace(state=SimpleNamespace(body=body))
    engine: Any = SimpleNamespace(dead_engines=list)
    return Failures(
        engine, request, frozenset({"max_completion_tokens", "prompt", "stop", "structured_outputs"})
    )


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


def test_a_field_vllm_names_for_another_is_found_again() -> None:
    body = {"response_format": {"json_schema": {"schema": {"$ref": "#/secret/place"}}}}
    error = VLLMValidationError(
        "The grammar or schema accepts no text: place", parameter="structured_outputs"
    )
    mapped = failures(body).from_exception(error)
    assert (mapped.status_code, mapped.param) == (400, "response_format")
    assert "place" not in mapped.detail
    missing = VLLMValidationError("prompt must be given", parameter="prompt")
    assert failures({}).from_exception(missing).param == "prompt"


def test_the_name_the_caller_used_is_the_one_in_the_error() -> None:
    error = VLLMValidationError("max_tokens must be at least 1", parameter="max_tokens")
    mapped = failures({"max_completion_tokens": 0}).from_exception(error)
    assert (mapped.param, mapped.detail) == (
        "max_completion_tokens",
        "max_completion_tokens must be at least 1",
    )
