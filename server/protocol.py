"""HTTP/1.1 as uvicorn and httptools speak it, made safe where they are not."""

import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import ApiError, invalid

MAX_HEADER = 32 << 10  # bytes
LINES = {400: "400 Bad Request", 431: "431 Request Header Fields Too Large"}


def header_too_large() -> ApiError:
    return ApiError(431, f"The header may have at most {MAX_HEADER} bytes.", code="header_too_large")


class JoinedHeader:
    """What one response writes to: its header waits for the first of its body, and both leave in one write.

    ASGI asks for as much, and a write to a socket costs more than all else a streamed token costs the server.
    """

    def __init__(self, transport: Any, cycle: Any) -> None:
        self._transport = transport
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
        self._transport.close()

    def is_closing(self) -> bool:
        return bool(self._transport.is_closing())


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Ends it when a header outgrows the bound (httptools would keep all of it), answers what is not HTTP in
    OpenAI's shape, and tells a running request that its client left even if another was pipelined behind it.
    """

    reading_header = False
    header_bytes = 0
    running: Any = None

    def on_message_begin(self) -> None:
        self.reading_header, self.header_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.reading_header = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        within = self.reading_header
        super().data_received(data)
        if within and self.reading_header:
            self.header_bytes += len(data)
            if self.header_bytes > MAX_HEADER:
                self._refuse(header_too_large())

    def send_400_response(self, msg: str) -> None:
        self._refuse(invalid("The request is not valid HTTP/1.1.", code="invalid_http"))

    def _refuse(self, error: ApiError) -> None:
        """Answer and close; only close if another answer is on its way, which this would end up inside of."""
        if self.transport.is_closing():
            return
        if self.running is None or self.running.response_complete:
            body = json.dumps(error.body()).encode()
            head = (
                f"HTTP/1.1 {LINES[error.status_code]}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.running = cycle
        cycle.transport = JoinedHeader(self.transport, cycle)
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
        super().connection_lost(exc)
