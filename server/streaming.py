"""Server-sent events: a refusal keeps its status, the report rides last, work ends with the client."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from decoders.report import Report
from server.disconnect import disconnected
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

    One task takes the events from their source and sends them, from the request's acceptance to its end: a
    second task in between would put every first token behind the other requests of its batch.

    Args:
        source: the events.
        report: what to put on the last event, or None.
        to_error: makes OpenAI's body of a vLLM error body.
    """

    def __init__(self, source: Events, report: Report | None, to_error: ErrorMap) -> None:
        self.source = source
        self.report = report
        self.to_error = to_error
        self.first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.opened: asyncio.Future[Send] = asyncio.get_running_loop().create_future()
        self.task = asyncio.ensure_future(self._run())

    def open(self, send: Send) -> None:
        """Let the events flow to the client."""
        self.opened.set_result(send)

    async def close(self) -> None:
        """End the source, wherever it is."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.source.aclose()

    async def _run(self) -> None:
        report = self.report
        held: str | None = None
        async for event in self.source:
            if not self.first.done():
                self.first.set_result(event)
                send = await self.opened
            if held is not None:
                if event == DONE and report is not None:
                    held = _with_report(held, report)
                await _send(send, held)
                held = None
            if report is not None and _may_be_last(event):
                held = event
            else:
                await _send(send, self._mapped(event))
        if held is not None:
            await _send(send, held)

    def _mapped(self, event: str) -> str:
        if (error := error_of(event)) is None:
            return event
        return f"{DATA}{json.dumps(self.to_error(error))}\n\n"


class EventStream(Response):
    """The response that a relay fills. However it ends, it ends its source and gives back what it holds."""

    media_type = "text/event-stream"

    def __init__(self, relay: Relay, held: AsyncExitStack) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.relay = relay
        self.held = held
        self.init_headers({"Cache-Control": "no-cache"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = self.relay.task
        leaving = asyncio.ensure_future(disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self.relay.open(send)
            await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                METRICS.disconnected.labels(scope["path"]).inc()
        finally:
            leaving.cancel()
            try:
                await self.relay.close()
            finally:
                await self.held.aclose()


async def _send(send: Send, event: str) -> None:
    await send({"type": "http.response.body", "body": event.encode(), "more_body": True})


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
