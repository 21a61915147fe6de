"""What Ray Serve's HTTP proxies answer by themselves, brought into the shape of the other answers.

Serve says little of a replica that dies: a bare 500 before an answer has begun, and a stream that breaks off.
Here the first becomes a 503 in OpenAI's shape, which clients retry, and the second ends with an error event.
A proxy adds an X-Request-Id to the one the server has set; only the server's is kept.
"""

import json
import re
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError, clip, code_of, unavailable

IMPORT_PATH = "deploy.ray.proxy:middlewares"
VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
SERVES_OWN = "/-/"  # Serve's health and routes, for load balancers
MAX_ID = 128  # characters
PLAIN = re.compile(rb"text/plain\b")


def replica_lost() -> ApiError:
    return unavailable("The replica that had this request is gone; send it again.", "replica_lost")


def middlewares() -> list[Middleware]:
    """What Serve is told by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(OneVoice)]


class OneVoice:
    """Every answer as a Decant server would give it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(SERVES_OWN):
            await self.app(scope, receive, send)
            return
        answer = Answer(send)
        await self.app(scope, receive, answer.send)
        await answer.end(scope, receive)


class Answer:
    """One response on its way through a proxy."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.streams = False
        self.done = False
        self.instead: ApiError | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = _with_one_id(message["headers"])
            kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
            if message["status"] >= 400 and PLAIN.match(kind):
                self.instead = _own(message["status"], headers)
                return
            self.started = True
            self.streams = kind.startswith(b"text/event-stream")
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            if self.instead is not None:
                return
            self.done = not message.get("more_body", False)
        await self._send(message)

    async def end(self, scope: Scope, receive: Receive) -> None:
        """Finish what Serve has left unfinished; a broken body that is no stream stays broken."""
        if not self.started:
            response: JSONResponse = (self.instead or replica_lost()).response()
            if identity := Headers(scope=scope).get("x-request-id"):  # Serve has given it one by now
                response.headers["X-Request-Id"] = clip(identity, MAX_ID)
            await response(scope, receive, self._send)
        elif self.streams and not self.done:
            event = f"data: {json.dumps(replica_lost().body())}\n\ndata: [DONE]\n\n"
            await self._send({"type": "http.response.body", "body": event.encode(), "more_body": False})


def _own(status: int, headers: list[Any]) -> ApiError:
    """Serve's own refusals: no replica or too many requests (503), its time-out (408), no app (404)."""
    kept = {name.decode(): value.decode() for name, value in headers if name.lower() == b"retry-after"}
    messages = {
        404: "There is no such route; see /openapi.json.",
        408: "The request ran longer than request_timeout_s allows.",
        503: "No replica can take this request now.",
    }
    message = messages.get(status, "The request could not be served.")
    if status == 503:
        kept = {**unavailable("", "").headers, **kept}  # type: ignore[dict-item]
    return ApiError(status, message, code=code_of(status), headers=kept)


def _with_one_id(headers: Any) -> list[tuple[bytes, bytes]]:
    kept, seen = [], False
    for name, value in headers:
        if name.lower() == b"x-request-id":
            if seen:
                continue
            seen = True
        kept.append((name, value))
    return kept
