"""Server-sent events: a refusal keeps its status, the report rides last, work ends with the client."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from server.disconnect import Departure
from server.errors import ApiError

DATA = "data: "
DONE = "data: [DONE]\n\n"
ERROR = 'data: {"error"'
# JSON strings cannot hold these unescaped. An event with one of the last two may be the last before [DONE].
ROLE = '"delta":{"role":"'
FINISHED = '"finish_reason":"'
NO_CHOICES = '"choices":[]'

HEADER_WAITS = 0.1  # seconds the header may wait for the first event, to leave in one write with it

Events = AsyncGenerator[str, None]
BodyMap = Callable[[dict[str, Any]], dict[str, Any]]


class Relay:
    """A stream on its way to the client, with errors in OpenAI's shape and the report on its last event.

    One task takes the events from their source and sends them, from the request's acceptance to its end: a
    second task in between would put every first token behind the other requests of its batch. Events that
    come at once leave in one write, since a write costs more than making an event: the role with the first
    token, and the last token with all that follows it.

    Args:
        source: the events.
        amend: what is done to the last event, or None.
        single: there is but one choice, so that nothing but the end follows an event with its finish_reason.
        to_error: makes OpenAI's body of a vLLM error body.
    """

    def __init__(self, source: Events, amend: BodyMap | None, single: bool, to_error: BodyMap) -> None:
        self.source = source
        self.amend = amend
        self.holds_ends = single or amend is not None
        self.to_error = to_error
        self.first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.opened: asyncio.Future[Send] = asyncio.get_running_loop().create_future()
        self.held: list[str] = []  # events that wait for the next write
        self.written = False
        self.header: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.task = asyncio.ensure_future(self._run())

    def open(self, send: Send) -> None:
        """Let the events flow to the client, and the response's header now if none comes soon."""
        self.opened.set_result(send)
        self.timer = asyncio.get_running_loop().call_later(HEADER_WAITS, self._write_header)

    def _write_header(self) -> None:
        if not self.written:
            self.header = asyncio.ensure_future(self._write())

    async def close(self) -> None:
        """End the source, wherever it is."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.task.done():
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        await self.source.aclose()

    async def _run(self) -> None:
        opening = True
        try:
            async for event in self.source:
                if opening:
                    if not self.first.done():
                        self.first.set_result(event)
                        await self.opened
                    opening = ROLE in event
                if event == DONE and self.held and self.amend is not None:
                    self.held[-1] = _amended(self.held[-1], self.amend)
                self.held.append(self._mapped(event))
                if not opening and event != DONE and not (self.holds_ends and _may_be_last(event)):
                    await self._write()
        except Exception:
            if self.held:
                await self._write()
            raise
        if not self.first.done():
            raise ApiError(500, "The engine ended the stream before it began.", code="internal_error")
        await self._write(more=False)

    async def _write(self, more: bool = True) -> None:
        body = "".join(self.held).encode()
        self.held.clear()
        self.written = True
        send = await self.opened
        await send({"type": "http.response.body", "body": body, "more_body": more})

    def _mapped(self, event: str) -> str:
        if (error := error_of(event)) is None:
            return event
        return f"{DATA}{json.dumps(self.to_error(error))}\n\n"


class EventStream(Response):
    """The response that a relay fills. However it ends, it ends its source and gives back what it holds."""

    media_type = "text/event-stream"

    def __init__(self, relay: Relay, held: AsyncExitStack, departure: Departure) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.relay = relay
        self.held = held
        self.departure = departure
        self.init_headers({"Cache-Control": "no-cache"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, left = self.relay.task, self.departure.left
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self.relay.open(send)
            await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            else:
                self.departure.count()
        finally:
            self.departure.close()
            try:
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
    return FINISHED in event or NO_CHOICES in event


def _amended(event: str, amend: BodyMap) -> str:
    body = amend(json.loads(event[len(DATA) :]))
    return f"{DATA}{json.dumps(body, separators=(',', ':'))}\n\n"
