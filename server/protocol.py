"""HTTP/1.1 as uvicorn and httptools speak it, made safe where they are not."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import ApiError, invalid, unavailable
from server.limits import ConnectionSettings
from server.metrics import METRICS

MAX_HEADER = 32 << 10  # bytes
MAX_PIPELINED = 64  # requests that wait on one connection while another is answered
LINES = {
    400: "400 Bad Request",
    408: "408 Request Timeout",
    431: "431 Request Header Fields Too Large",
    503: "503 Service Unavailable",
}


def header_too_large() -> ApiError:
    return ApiError(431, f"The header may have at most {MAX_HEADER} bytes.", code="header_too_large")


def too_slow(part: str, seconds: float) -> ApiError:
    return ApiError(408, f"The request's {part} took longer than {seconds:g} s.", code="request_timeout")


class JoinedHeader:
    """What one response writes to: its header waits for the first of its body, and both leave in one write.

    ASGI asks for as much, and a write to a socket costs more than all else a streamed token costs the server.
    """

    def __init__(self, transport: Any, cycle: Any, close: Callable[[], None]) -> None:
        self._transport = transport
        self._close = close
        self._cycle = cycle
        self._header: bytes | None = None  # None until there is one, empty once it has left

    def write(self, data: bytes) -> None:
        if self._header is None and self._cycle.response_started:
            self._header = data
            return
        if self._header:
            data, self._header = self._header + data, b""
        self._transport.write(data)

    def flush(self) -> None:
        """Write the header if no body has taken it along (HEAD has none)."""
        if self._header:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._close()

    def is_closing(self) -> bool:
        return bool(self._transport.is_closing())


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Ends it when a header or the trailers of a body outgrow the bound (httptools would keep all of it), when
    too many requests wait on it, when a header or a body takes too long to arrive or an answer is not read,
    and when there are too many others; answers what is not HTTP in OpenAI's shape, and tells a running
    request that its client left even if another was pipelined behind it.
    """

    limits = ConnectionSettings()
    reading_header = False
    reading_body = False
    header_bytes = 0  # that have come of a header, or of a body without bringing any of its content
    moved = False  # whether the last read began a request or brought some of a body
    broken = False  # whether what comes is no longer looked at: the connection ends after its last answer
    running: Any = None
    # What is being waited for has until `deadline`. One timer looks at it, and is set again when it finds
    # that the deadline has moved: a request then costs the reading of a clock, and no timer of its own.
    deadline: float | None = None
    timer: asyncio.TimerHandle | None = None
    unread: asyncio.TimerHandle | None = None

    @classmethod
    def within(cls, limits: ConnectionSettings) -> "type[BoundedProtocol]":
        """The protocol under these limits."""
        return type(cls.__name__, (cls,), {"limits": limits})

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        METRICS.connections.set(len(self.connections))
        if len(self.connections) > self.limits.most:
            METRICS.rejected.labels("connections").inc()
            self._refuse(unavailable("The server has too many connections; try again later.", "overloaded"))
            return
        self._expect(self.limits.header_seconds)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests wait")  # the only way to stop the parser within a read
        self.reading_header, self.header_bytes, self.moved = True, 0, True
        self._expect(self.limits.header_seconds)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.reading_header:  # else it is a trailer, which would pass for a header that no proxy has seen
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.reading_header, self.reading_body, self.header_bytes = False, True, 0
        self._expect(self.limits.body_seconds)

    def on_body(self, body: bytes) -> None:
        self.header_bytes, self.moved = 0, True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.reading_body, self.deadline = False, None
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self.broken:
            return
        self.moved = False
        super().data_received(data)
        if self.deadline is None and not self._is_answering() and not self.transport.is_closing():
            # Line ends between two requests: they stop uvicorn's keep-alive timer, and no request begins.
            self._expect(self.limits.header_seconds)
        if not self.moved and (self.reading_header or self.reading_body):
            self.header_bytes += len(data)
            if self.header_bytes > MAX_HEADER:
                self._refuse(header_too_large())

    def send_400_response(self, msg: str) -> None:
        self._refuse(invalid("The request is not valid HTTP/1.1.", code="invalid_http"))

    # ---- deadlines -------------------------------------------------------------------------------------

    def _is_answering(self) -> bool:
        return self.running is not None and not self.running.response_complete

    def _expect(self, seconds: float) -> None:
        """Wait at most so long for what comes next."""
        self.deadline = self.loop.time() + seconds
        if self.timer is None or self.timer.when() > self.deadline:
            if self.timer is not None:
                self.timer.cancel()
            self.timer = self.loop.call_at(self.deadline, self._look)

    def _look(self) -> None:
        self.timer = None
        if self.deadline is None or self.transport.is_closing():
            return
        if self.deadline > self.loop.time():
            self.timer = self.loop.call_at(self.deadline, self._look)
        elif self._is_answering() and not (self.running is self.cycle and self.reading_body):
            self._expect(self.limits.header_seconds)  # a request behind the running one: it cannot hurry
        elif self.reading_body:
            self._refuse(too_slow("body", self.limits.body_seconds))
        else:
            self._refuse(too_slow("header", self.limits.header_seconds))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.unread is not None:
            self.unread.cancel()
        self.unread = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.unread is not None and not self.transport.is_closing():
            self.unread.cancel()
            self.unread = None

    def close(self) -> None:
        """Close the connection once what was written has been read, and in any case in `write_seconds`."""
        if self.transport.is_closing():
            return
        self.transport.close()
        if self.transport.get_write_buffer_size() and self.unread is None:
            self.unread = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def _refuse(self, error: ApiError) -> None:
        """End the connection over what came last; say so unless another answer is running."""
        if self.broken or self.transport.is_closing():
            return
        self.broken = True
        if self.reading_body and self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()  # it waits, and will never be whole
        if self.running is not self.cycle or not self.reading_body:
            if self._is_answering():  # what was asked before is answered still
                (self.pipeline[0][0] if self.pipeline else self.running).keep_alive = False
                return
            self._answer(error)
        elif not self.running.response_started:  # whoever reads the body is told that its client left
            self.running.disconnected = True
            self.running.message_event.set()
            self._answer(error)
        self.close()

    def _answer(self, error: ApiError) -> None:
        body = json.dumps(error.body()).encode()
        head = (
            f"HTTP/1.1 {LINES[error.status_code]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in (error.headers or {}).items())
            + "\r\n"
        )
        self.transport.write(head.encode() + body)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.running = cycle
        cycle.transport = JoinedHeader(self.transport, cycle, self.close)
        if self.reading_body and cycle is self.cycle:
            self._expect(self.limits.body_seconds)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self.running is not None:
            self.running.transport.flush()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.running is not None and not self.running.response_complete:
            self.running.disconnected = True
            self.running.message_event.set()
        self.pipeline.clear()
        for timer in (self.timer, self.unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        METRICS.connections.set(len(self.connections))
