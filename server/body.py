"""Request bodies: strict JSON, bounded in size and depth, with finite numbers only."""

import math
import re
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from server.errors import ApiError, invalid

INT64 = 2**63
# Numbers that could lie outside float64 or int64; only then is the parsed body searched for them.
_LARGE = re.compile(rb"\d{19}|[eE]\+?\d{3}")


def parse_json(body: bytes) -> Any:
    """The body's JSON value.

    Errors: ApiError 400 for bad UTF-8, malformed JSON, nesting deeper than 200, NaN, infinities, and integers
    that do not fit 64 bits.
    """
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(_explain(str(error)), code="invalid_json") from None
    if _LARGE.search(body):
        _require_finite(value)
    return value


def _explain(cause: str) -> str:
    if "recursion" in cause:
        return "The body's JSON is nested too deeply; 200 levels are allowed."
    if "unicode" in cause or "utf-8" in cause.lower():
        return "The body is not valid UTF-8."
    where = re.search(r"at line \d+ column \d+", cause)
    return f"The body is not valid JSON{' ' + where.group() if where else ''}."


def _require_finite(value: Any) -> None:
    if (found := _odd_number(value)) is not None:
        message, path = found
        raise invalid(message, ".".join(reversed(path)) or None)


def _are_integers(items: list[Any]) -> bool:
    """Whether these are integers of at most 64 bits: token ids for example, of which no one is looked at."""
    return {*map(type, items)} == {int} and -INT64 <= min(items) <= max(items) < INT64


def _odd_number(value: Any) -> tuple[str, list[str]] | None:
    """What is wrong with a number in `value`, and its keys from the inside out; these only once one is found,
    for a body may hold millions."""
    if isinstance(value, int):
        return None if -INT64 <= value < INT64 else ("An integer of at most 64 bits is required.", [])
    if isinstance(value, float):
        return None if math.isfinite(value) else ("A finite number is required.", [])
    if isinstance(value, list) and _are_integers(value):
        return None
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if not isinstance(item, str) and (found := _odd_number(item)) is not None:
                found[1].append(str(key))
                return found
    return None


class JsonRequest(Request):
    """A request whose `json()` is strict; `state.body` keeps the parsed value for error messages."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            media_type = self.headers.get("content-type", "").split(";", 1)[0].strip().lower()
            if media_type != "application/json":
                raise ApiError(
                    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                    "The body must be JSON, with the header 'Content-Type: application/json'.",
                    code="unsupported_media_type",
                )
            value = parse_json(await self.body())
            if not isinstance(value, dict):
                raise invalid("The body must be a JSON object.", code="invalid_json")
            self._json = value
            self.state.body = value
        return self._json


class JsonRoute(APIRoute):
    """A route that reads its body as strict JSON, and refuses any other content type."""

    async def inspect(self, request: Request, body: dict[str, Any]) -> None:
        """Look at a body before its model is made of it; raise what refuses it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            parsed = JsonRequest(request.scope, request.receive)
            if self.body_field is not None:
                await self.inspect(parsed, await parsed.json())
            return await handler(parsed)

        return strict
