"""Server-sent events: a refusal keeps its status, the report rides last, work ends with the client."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from decoders.report import Report

DATA = "data: "
DONE = "data: [DONE]\n\n"
ERROR = 'data: {"error"'
# An event with one of these may be the last before [DONE]; JSON strings cannot hold them unescaped.
ENDINGS = ('"finish_reason":"', '"choices":[]')

Events = AsyncGenerator[str, None]
ErrorMap = Callable[[dict[str, Any]], dict[str, Any]]


class EventStream(StreamingResponse):
    """A streaming response that ends its source and gives back what it holds, however the stream ends.

    Starlette may drop a stream without ever starting its generator (the client is gone already); a `finally`
    inside the generator would then never run.
    """

    def __init__(self, events: Events, sources: list[Events], held: AsyncExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.sources = [events, *sources]
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await close(self.sources, self.held)


async def close(sources: list[Events], held: AsyncExitStack) -> None:
    try:
        for source in sources:
            await source.aclose()
    finally:
        await held.aclose()


def error_of(event: str) -> dict[str, Any] | None:
    """The body of an error event, None for any other event."""
    if not event.startswith(ERROR):
        return None
    body: dict[str, Any] = json.loads(event[len(DATA) :])
    return body


async def relay(first: str, events: Events, report: Report | None, to_error: ErrorMap) -> Events:
    """The stream, with errors in OpenAI's shape and, if asked for, the report on its last event."""
    held = first if report is not None and _may_be_last(first) else None
    if held is None:
        yield first
    async for event in events:
        if held is not None:
            yield _with_report(held, report) if event == DONE and report is not None else held
            held = None
        if event.startswith(ERROR):
            yield f"{DATA}{json.dumps(to_error(json.loads(event[len(DATA) :])))}\n\n"
        elif report is not None and _may_be_last(event):
            held = event
        else:
            yield event
    if held is not None:
        yield held


def _may_be_last(event: str) -> bool:
    return any(ending in event for ending in ENDINGS)


def _with_report(event: str, report: Report) -> str:
    body = json.loads(event[len(DATA) :])
    return f"{DATA}{json.dumps({**body, 'decoding': report.layers}, separators=(',', ':'))}\n\n"
