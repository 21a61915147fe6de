"""vLLM's errors as Decant states them: OpenAI's shape, the field named, the caller's input left out."""

import logging
import re
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMError, VLLMValidationError

from server.engine import DecodingEngine
from server.errors import (
    ApiError,
    code_of,
    crashed,
    engine_lost,
    from_validation,
    invalid,
    model_not_found,
    unavailable,
)
from server.quotas import BILL
from server.scrub import pieces, scrub

logger = logging.getLogger("decant.server")

# '(parameter=stop, value=...)': vLLM appends what it was given to its validation errors.
_QUOTED = re.compile(r" \(parameter=[\w.]+(, value=.*)?\)$|, value=.*\)$", re.DOTALL)


# What vLLM's messages are about when they name no parameter, and the fields that can be the cause.
_SUBJECTS = (
    (re.compile(r"context length|out of vocabulary|multimodal|[Pp]rompt"), ("messages", "prompt", "tokens")),
    (
        re.compile(r"[Gg]rammar|[Ss]chema|[Rr]egex|[Cc]hoice|structur"),
        ("response_format", "structured_outputs", "tools", "tool_choice"),
    ),
    (re.compile(r"pattern"), ("repetition_detection",)),
    (re.compile(r"tool"), ("tool_choice", "tools")),
)
STRUCTURED = ("response_format", "structured_outputs")
# Words that a message about a schema needs, though a request may hold them as values.
SCHEMA_WORDS = frozenset(
    {"additionalProperties", "allOf", "anyOf", "array", "boolean", "const", "enum", "grammar", "integer"}
    | {"items", "maximum", "minimum", "null", "number", "object", "oneOf", "pattern", "properties", "regex"}
    | {"required", "root", "schema", "string", "type"}
)
_SOURCE_LINE = re.compile(r"\S*/\S+\.\w{1,4}:\d+:?\s*")


def infer_param(message: str, body: dict[str, Any]) -> str | None:
    """The field of `body` a message without a parameter is about: the one it begins with, or its subject."""
    named = re.match(r"[`'\"]?([a-z][a-z_]*)\b", message)
    if named is not None and named[1] in body:
        return named[1]
    for subject, fields in _SUBJECTS:
        if subject.search(message):
            return next((field for field in fields if field in body), None)
    return None


def lost_error(engine: DecodingEngine, name: str) -> ApiError:
    """503 for a request that needs this engine, which died or hangs."""
    return engine_lost(name, engine.condition(name), engine.retry_after(name))


class Failures:
    """Turns what went wrong in one request into an ApiError."""

    def __init__(self, engine: DecodingEngine, request: Request, vocabulary: frozenset[str]) -> None:
        self.engine = engine
        self.request = request
        self.vocabulary = vocabulary

    def from_exception(self, error: Exception) -> ApiError:
        if isinstance(error, ApiError):
            return error
        if isinstance(error, ValidationError):  # vLLM validates some of a message only when it reads it
            late = from_validation(error.errors(include_url=False, include_input=False))
            return invalid(f"messages: {late.detail}", "messages")
        if isinstance(error, VLLMValidationError):  # its str() quotes the value
            return self._error(400, str(error.args[0]), error.parameter)
        if not isinstance(error, VLLMError):
            logger.warning("%s taken for a bad request: %s", type(error).__name__, error)
        return self.from_vllm(create_error_response(error))

    def from_vllm(self, response: ErrorResponse) -> ApiError:
        return self._error(int(response.error.code), response.error.message, response.error.param)

    def from_body(self, body: dict[str, Any]) -> ApiError:
        error = body["error"]
        return self._error(int(error["code"]), str(error["message"]), error.get("param"))

    def _error(self, status: int, message: str, param: str | None) -> ApiError:
        if lost := self._lost():
            return lost_error(self.engine, lost)
        if status == 404 and param == "model":
            return model_not_found()
        if status == 429 and (bill := self.request.scope.get(BILL)) is not None and bill.refusal is not None:
            return bill.refusal
        if status >= 500 and status not in (501, 503):
            logger.error("a request failed: %s", message)
            return crashed()
        message = _QUOTED.sub("", message)
        body = getattr(self.request.state, "body", None) or {}
        if param == "max_tokens" and param not in body and "max_completion_tokens" in body:
            message = message.replace(param, "max_completion_tokens", 1)
            param = "max_completion_tokens"
        elif param is None or not self._is_at_fault(param.split(".")[0], body):
            param = infer_param(message, body)
        if param in STRUCTURED:  # the compilers quote pieces of what they read
            message = _SOURCE_LINE.sub("", message)
            message = scrub(message, pieces(body.get(param)), self.vocabulary | SCHEMA_WORDS)
        message = scrub(message, body, self.vocabulary)
        if status == 503:
            return unavailable(message, "overloaded")
        return ApiError(status, message, code=code_of(status), param=param)

    def _lost(self) -> str | None:
        """The engine whose loss this request's failure is."""
        call = getattr(self.request.state, "call", None)
        if call is not None and call.lost is not None:
            return str(call.lost)
        return next(iter(self.engine.dead_engines()), None)

    def _is_at_fault(self, field: str, body: dict[str, Any]) -> bool:
        """Whether a field vLLM names can be the one: it was sent, or it is one that is missing."""
        return field in body or (field in self.vocabulary and field not in STRUCTURED)
