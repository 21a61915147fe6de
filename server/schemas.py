"""Response schemas that several routes document."""

from typing import Any

from pydantic import BaseModel, Field


class ErrorDetail(BaseModel):
    message: str = Field(description="What is wrong and what is allowed; never repeats the request.")
    type: str = Field(description="The kind of error, e.g. invalid_request_error.")
    param: str | None = Field(default=None, description="The request field at fault, dotted.")
    code: str | None = Field(default=None, description="A stable name of the cause.")


class Error(BaseModel):
    """OpenAI's error body."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "The request is not valid, or this server cannot honour it."},
    401: {"model": Error, "description": "No API key, or a wrong one."},
    403: {"model": Error, "description": "A server without API keys is asked under a name not its own."},
    404: {"model": Error, "description": "No such model or route."},
    405: {"model": Error, "description": "This route does not take that method."},
    413: {"model": Error, "description": "The body is too large."},
    415: {"model": Error, "description": "The body is not JSON."},
    429: {"model": Error, "description": "The API key's limits are used up; see Retry-After."},
    431: {"model": Error, "description": "The header is too large."},
    500: {"model": Error, "description": "The server failed."},
    503: {"model": Error, "description": "Too busy, shutting down, or an engine is dead; see Retry-After."},
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {}}},
        "description": "The answer, or its events if it streams.",
    }
}
