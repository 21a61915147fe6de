"""Errors as OpenAI's API states them: one body shape for every route and every cause.

A message never repeats what the caller sent: it names the field and what is allowed. Messages of vLLM's own
errors may quote the request; `server.scrub` takes the quotes out.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from decoders.errors import Refusal
from decoders.registry import LAYERS, methods

MAX_MESSAGE = 1000  # characters; with the rest of the body well under 8 KB
MAX_PARAM = 128
RETRY_AFTER = 2  # seconds

TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


class ApiError(HTTPException):
    """An error with everything its body says.

    Args:
        status: the HTTP status.
        message: what is wrong and what is allowed; never the caller's own input.
        code: a short stable name of the cause, for programs.
        param: the request field at fault, dotted, or None.
        headers: further response headers, such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers) if headers else None)
        self.code = code
        self.param = param

    @classmethod
    def of(cls, refusal: Refusal) -> "ApiError":
        return invalid(refusal.message, refusal.param)

    def body(self) -> dict[str, Any]:
        return error_body(self.status_code, str(self.detail), self.code, self.param)

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status_code, headers=self.headers)


def error_body(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """The JSON body `{"error": {"message", "type", "param", "code"}}`."""
    kind = TYPES.get(HTTPStatus(status), "invalid_request_error" if status < 500 else "server_error")
    return {
        "error": {
            "message": clip(message, MAX_MESSAGE),
            "type": kind,
            "param": clip(param, MAX_PARAM) if param else None,
            "code": code,
        }
    }


def clip(text: str, limit: int) -> str:
    """Text of at most `limit` printable characters."""
    text = "".join(c if c.isprintable() else " " for c in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, message, code=code, param=param)


def unavailable(message: str, code: str, retry_after: int = RETRY_AFTER) -> ApiError:
    """503 with Retry-After in seconds."""
    headers = {"Retry-After": str(retry_after)}
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, message, code=code, headers=headers)


GOING_DOWN = "the server is going down"
CONDITIONS = {
    "dead": ("has died", GOING_DOWN, "engine_dead"),
    "hung": ("hangs", GOING_DOWN, "engine_hung"),
    "restarting": ("has died", "it is being started again; try again", "engine_restarting"),
    "up": ("has died", "it was started again; try again", "engine_restarting"),
}


def engine_lost(name: str, condition: str, retry_after: int = RETRY_AFTER) -> ApiError:
    """503 for what needs an engine that is, or just was, in this condition."""
    what, then, code = CONDITIONS[condition]
    return unavailable(f"Engine '{name}' {what}; {then}.", code, retry_after)


def model_not_found() -> ApiError:
    message = "This model does not exist here; see GET /v1/models."
    return ApiError(HTTPStatus.NOT_FOUND, message, code="model_not_found", param="model")


def crashed() -> ApiError:
    """500 for a defect of ours; the log says which."""
    return ApiError(500, "The server failed to answer this request; its log says why.", code="internal_error")


CODES = {
    400: "invalid_value",
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
    422: "unprocessable",
    501: "not_supported",
    503: "unavailable",
}


def code_of(status: int) -> str:
    return CODES.get(status, "internal_error" if status >= 500 else "invalid_request")


# ---- pydantic's errors ---------------------------------------------------------------------------------

REASONS = {
    "missing": ("This field is required", "missing_field"),
    "extra_forbidden": ("Unknown field", "unknown_field"),
    "finite_number": ("A finite number is required", "invalid_value"),
    "union_tag_not_found": ("This field is required", "missing_field"),
    "none_required": ("This version has no method for this layer; leave it out", "unsupported_field"),
    # A validator's own words may quote the value.
    "value_error": ("This value is not allowed", "invalid_value"),
    "assertion_error": ("This value is not allowed", "invalid_value"),
}
BOUNDS = frozenset(
    {"too_long", "too_short", "greater_than", "greater_than_equal", "less_than", "less_than_equal"}
)
SHOULD_BE = "Input should be "
LOOKED_AT = 100  # a union reports every branch it tried, so the first few errors tell as much as all


def from_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """A 400 from pydantic's error list: the field and reason of the error that tells most.

    Of a union's branches that is the one that got deepest, and a broken bound rather than another type.
    """
    first = max(errors[:LOOKED_AT], key=lambda e: (len(_location(e)), e.get("type") in BOUNDS))
    param = ".".join(_location(first)) or None
    kind = str(first.get("type"))
    if kind == "union_tag_invalid":
        param = f"{param}.method"
        reason, code = f"Unknown method; allowed: {first['ctx']['expected_tags']}", "invalid_value"
    else:
        if kind == "union_tag_not_found":
            param = f"{param}.method"
        reason, code = REASONS.get(kind) or (_alternatives(first, errors), "invalid_value")
    return invalid(f"{param}: {reason}." if param else f"{reason}.", param, code)


def _alternatives(first: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> str:
    """The words of an error, and of its union's other branches if all say what should be there."""
    words, where = str(first.get("msg", "Invalid value")), _location(first)
    if first.get("type") in BOUNDS:
        return words
    branches = [str(error.get("msg")) for error in errors[:LOOKED_AT] if _location(error) == where]
    if not all(one.startswith(SHOULD_BE) for one in branches):
        return words
    return SHOULD_BE + " or ".join(dict.fromkeys(one.removeprefix(SHOULD_BE) for one in branches))


def _location(error: Mapping[str, Any]) -> list[str]:
    """The field's path, without FastAPI's 'body' and pydantic's names of union branches, methods included."""
    parts = [part for part in error.get("loc", ()) if part != "body"]
    if len(parts) > 2 and parts[0] == "decoding" and parts[1] in LAYERS and parts[2] in methods(parts[1]):
        del parts[2]
    return [str(part)[:64] for part in parts if isinstance(part, int) or _is_field(part)]


def _is_field(part: str) -> bool:
    # Branch names look like 'list[int]', 'function-wrap[check()]', 'constrained-float' or
    # 'ChatCompletionUserMessageParam'.
    named = "[" in part or part[:1].isupper() or part.startswith("constrained-")
    return not (named or part in ("str", "int", "float", "bool", "none"))
