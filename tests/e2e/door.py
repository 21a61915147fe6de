"""A door before a server: what passes is kept as it came, and may be changed or refused on the way."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx

Admit = Callable[[str, str, Any], bool]


@dataclass
class Door:
    url: str
    seen: list[Any] = field(default_factory=list)  # the bodies of all POSTs, as they came


@contextmanager
def door(server: str, admit: Admit = lambda method, path, body: True) -> Iterator[Door]:
    """`admit` sees method, path and body, may change the body, and says whether the server is asked at all.

    A request that is not admitted gets 404. An answer is passed on when it is complete, streams too.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass("GET", b"")

        def do_POST(self) -> None:
            self._pass("POST", self.rfile.read(int(self.headers["Content-Length"])))

        def _pass(self, method: str, raw: bytes) -> None:
            body = json.loads(raw) if raw else None
            if raw:
                here.seen.append(json.loads(raw))
            answer, status, kind = b'{"error": {"message": "Not Found"}}', 404, "application/json"
            if admit(method, self.path, body):
                headers = {"Authorization": self.headers["Authorization"]}
                reply = httpx.request(method, server + self.path, json=body, headers=headers, timeout=60)
                answer, status, kind = reply.content, reply.status_code, reply.headers["Content-Type"]
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Door(f"http://127.0.0.1:{listening.server_port}")
    Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield here
    finally:
        listening.shutdown()
        listening.server_close()
