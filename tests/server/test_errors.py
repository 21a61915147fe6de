from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from decoders.errors import Refusal
from decoders.request import DecodingRequest
from server.errors import MAX_MESSAGE, ApiError, clip, error_body, from_validation


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["a", "b"]
    size: int = Field(default=1, le=4)


class Outer(BaseModel):
    inner: Inner | None = None
    names: list[str] | str = "x"
    many: list[int] = []


def refused(data: object, model: type[BaseModel] = Outer) -> ApiError:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data)
    return from_validation(caught.value.errors())


@pytest.mark.parametrize(
    ("data", "param", "code"),
    [
        ({"inner": {"kind": "MARKER"}}, "inner.kind", "invalid_value"),
        ({"inner": {}}, "inner.kind", "missing_field"),
        ({"inner": {"kind": "a", "other": "MARKER"}}, "inner.other", "unknown_field"),
        ({"inner": {"kind": "a", "size": 9}}, "inner.size", "invalid_value"),
        ({"names": {"MARKER": 1}}, "names", "invalid_value"),
        ({"many": [1, "MARKER"]}, "many.1", "invalid_value"),
    ],
)
def test_a_validation_error_names_its_field_and_not_its_value(data: object, param: str, code: str) -> None:
    error = refused(data)
    assert (error.status_code, error.param, error.code) == (400, param, code)
    assert "MARKER" not in str(error.detail)
    assert str(error.detail).startswith(param)


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({"sequence": {"method": "MARKER"}}, "decoding.sequence.method"),
        ({"sequence": {}}, "decoding.sequence.method"),
        ({"sequence": {"method": "plain", "oops": 1}}, "decoding.sequence.oops"),
        ({"oops": 1}, "decoding.oops"),
        ({"cache": {"method": "MARKER"}}, "decoding.cache.method"),
        ({"cache": {"method": "kvmerger", "budget": "MARKER"}}, "decoding.cache.budget"),
        ({"cache": {"method": "kvmerger", "decode": {"trigger": 1}}}, "decoding.cache.decode.trigger"),
        ({"cache": {"method": "kvmerger", "sigma": "MARKER"}}, "decoding.cache.sigma"),
        ({"cache": {"method": "kvmerger", "sigma": -1}}, "decoding.cache.sigma"),
        ("MARKER", "decoding"),
    ],
)
def test_each_error_inside_decoding_names_the_field(data: object, param: str) -> None:
    class Body(BaseModel):
        decoding: DecodingRequest | None = None  # type: ignore[valid-type]

    error = refused({"decoding": data}, Body)
    assert error.param == param
    assert "MARKER" not in str(error.detail)


@pytest.mark.parametrize(
    ("sigma", "reason"),
    [(True, "Input should be 'adaptive' or a valid number"), (0, "Input should be greater than 0")],
)
def test_all_that_would_be_allowed_is_named(sigma: object, reason: str) -> None:
    error = refused({"cache": {"method": "kvmerger", "sigma": sigma}}, DecodingRequest)
    assert str(error.detail) == f"cache.kvmerger.sigma: {reason}."


def test_many_errors_are_read_in_no_time() -> None:
    errors = [{"type": "int_type", "loc": ("many", i), "msg": "no"} for i in range(300_000)]
    assert from_validation(errors).param == "many.0"


def test_a_refusal_becomes_a_400_with_its_field() -> None:
    error = ApiError.of(Refusal("no such engine", "decoding.sequence.engine"))
    assert error.body() == {
        "error": {
            "message": "no such engine",
            "type": "invalid_request_error",
            "param": "decoding.sequence.engine",
            "code": "invalid_value",
        }
    }


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "invalid_request_error"), (401, "authentication_error"), (503, "server_error")]
)
def test_the_error_type_follows_the_status(status: int, kind: str) -> None:
    assert error_body(status, "m", "c")["error"]["type"] == kind


def test_bodies_are_small_and_printable_whatever_the_message() -> None:
    message = error_body(400, "a\nb\x00" * 100_000, "c")["error"]["message"]
    assert len(message) == MAX_MESSAGE
    assert message.isprintable()
    assert clip("short", 10) == "short"
