"""HTTP/1.1 as uvicorn and httptools speak it, with a bound on the bytes of a request's header."""

import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import ApiError

MAX_HEADER = 32 << 10  # bytes


def header_too_large() -> ApiError:
    return ApiError(431, f"The header may have at most {MAX_HEADER} bytes.", code="header_too_large")


class BoundedProtocol(HttpToolsProtocol):
    """Ends a connection whose header outgrows the bound; httptools itself would keep all of it in memory."""

    reading_header = False
    header_bytes = 0

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
            if self.header_bytes > MAX_HEADER and not self.transport.is_closing():
                self._refuse()

    def _refuse(self) -> None:
        body = json.dumps(header_too_large().body()).encode()
        head = (
            "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
