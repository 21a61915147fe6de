"""Server-sent events: a refusal keeps its status, the report rides last, work ends with the client."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from decoders.report import Report
from server.metrics import METRICS

DATA = "data: "
DONE = "data: [DONE]\n\n"
ERROR = 'data: {"error"'
# An event with one of these may be the last before [DONE]; JSON strings cannot hold them unescaped.
ENDINGS = ('"finish_reason":"', '"choices":[]')

Events = AsyncGenerator[str, None]
ErrorMap = Callable[[dict[str, Any]], dict[str, Any]]


class Relay:
    """A stream on its way to the client, with errors in OpenAI's shape and the report on its last event.

    Args:
        first: the task that takes the first event from `source`.
        source: the events.
        report: what to put on the last event, or None.
        to_error: makes OpenAI's body of a vLLM error body.
    """

    def __init__(
        self, first: asyncio.Future[str], source: Events, report: Report | None, to_error: ErrorMap
    ) -> None:
        self.first = first
        self.source = source
        self.report = report
        self.to_error = to_error
        self.complete = False

    async def events(self) -> Events:
        report = self.report
        first = await self.first
        held = first if report is not None and _may_be_last(first) else None
        if held is None:
            yield self._mapped(first)
        async for event in self.source:
            if held is not None:
                yield _with_report(held, report) if event == DONE and report is not None else held
                held = None
            if report is not None and _may_be_last(event):
                held = event
            else:
                yield self._mapped(event)
        if held is not None:
            yield held
        self.complete = True

    def _mapped(self, event: str) -> str:
        if (error := error_of(event)) is None:
            return event
        return f"{DATA}{json.dumps(self.to_error(error))}\n\n"

    async def close(self) -> None:
        """End the source, wherever it is."""
        self.first.cancel()
        await asyncio.gather(self.first, return_exceptions=True)
        await self.source.aclose()


class EventStream(StreamingResponse):
    """A streaming response that ends its source and gives back what it holds, however the stream ends.

    Starlette may drop a stream without ever starting its generator (the client is gone already); a `finally`
    inside the generator would then never run.
    """

    def __init__(self, relay: Relay, held: AsyncExitStack) -> None:
        self.relay = relay
        self.events = relay.events()
        self.held = held
        super().__init__(self.events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self.relay.complete:
                METRICS.disconnected.labels(scope["path"]).inc()
            try:
                await self.events.aclose()
                await self.relay.close()
            finally:
                await self.held.aclose()


def error_of(event: str) -> dict[str, Any] | None:
    """The body of an error event, None for any other event."""
    if not event.startswith(ERROR):
        return None
    body: dict[str, Any] = json.loads(event[len(DATA) :])
    return body


def _may_be_last(event: str) -> bool:
    return any(ending in event for ending in ENDINGS)


def _with_report(event: str, report: Report) -> str:
    body = json.loads(event[len(DATA) :])
    return f"{DATA}{json.dumps({**body, 'decoding': report.layers}, separators=(',', ':'))}\n\n"
