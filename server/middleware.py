"""What surrounds every request: its id, log line and metrics, the body limit, the last line of defence."""

import logging
import re
import time
import uuid
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.auth import KEY
from server.disconnect import CLIENT_CLOSED
from server.errors import ApiError, clip, crashed, invalid
from server.html import security_headers
from server.logs import REQUEST_ID
from server.metrics import METRICS
from server.protocol import MAX_HEADER, header_too_large
from server.quotas import BILL

logger = logging.getLogger("decant.access")

_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")
LINE = "%(method)s %(path)s %(status)s %(ms)s ms"
DECODING = ("decoding", "prompt_tokens", "completion_tokens", "computed_tokens")
PROBES = frozenset({"/health", "/ready", "/metrics"})


class RequestContext:
    """Gives each request an id (the caller's X-Request-Id if well formed), times, logs and counts it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, send)
        if refusal := _unreadable(scope):
            await refusal.response()(scope, receive, exchange.send)
            exchange.finish()
            return
        token = REQUEST_ID.set(exchange.id)
        try:
            await self.app(scope, receive, exchange.send)
        except ClientDisconnect:
            exchange.status = CLIENT_CLOSED  # there is nobody left to answer
        except Exception:
            logger.exception("unhandled error")
            if not exchange.started:
                await crashed().response()(scope, receive, exchange.send)
        finally:
            exchange.finish()
            REQUEST_ID.reset(token)


def _unreadable(scope: Scope) -> ApiError | None:
    """Why a request cannot be served whatever it asks."""
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER:
        return header_too_large()
    if scope["method"] == "POST" and any(name == b"upgrade" for name, _ in scope["headers"]):
        # httptools takes what follows for the other protocol, and the body would be lost.
        return invalid(
            "Send the request as HTTP/1.1 without the header 'Upgrade'.", code="upgrade_not_supported"
        )
    return None


def decoding_fields(scope: Scope) -> dict[str, Any]:
    """What decoded the request, and its tokens: of the prompts, delivered, and run through models in all."""
    call = scope.get("state", {}).get("call")
    if call is None:
        return {}
    tokens = (call.account.prompt, call.account.completion, call.computed())
    return dict(zip(DECODING, ("+".join(call.methods()), *tokens), strict=True))


class Exchange:
    """One request and the response to it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self._send = send
        self.start = time.perf_counter()
        self.status = 0
        self.started = False
        self.first_event: float | None = None
        self.streams = False
        given = Headers(scope=scope).get("x-request-id", "")
        self.id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        others = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
        scope["headers"] = [*others, (b"x-request-id", self.id.encode())]

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.id
            if (bill := self.scope.get(BILL)) is not None:
                headers.update(bill.account.headers())
            content_type = headers.get("content-type", "")
            headers.update(security_headers(content_type))
            self.streams = content_type.startswith("text/event-stream")
        elif self.first_event is None:
            self.first_event = time.perf_counter()
        await self._send(message)

    def finish(self) -> None:
        seconds = time.perf_counter() - self.start
        route = getattr(self.scope.get("route"), "path", "unmatched")
        METRICS.requests.labels(route, self.scope["method"], str(self.status)).inc()
        METRICS.seconds.labels(route).observe(seconds)
        if self.streams and self.first_event is not None:
            METRICS.first.labels(route).observe(self.first_event - self.start)
        level = logging.DEBUG if self.scope["path"] in PROBES else logging.INFO
        if logger.isEnabledFor(level):
            fields = {
                "method": self.scope["method"],
                "path": clip(self.scope["path"], 128),
                "route": route,
                "status": self.status,
                "ms": round(seconds * 1e3, 1),
                **decoding_fields(self.scope),
            }
            if (key := self.scope.get(KEY)) is not None:
                fields["key"] = key
            named = [name for name in ("key", *DECODING) if name in fields]
            text = " ".join([LINE, *(f"{name}=%({name})s" for name in named)])
            logger.log(level, text, fields, extra={"fields": fields})


class BodyLimit:
    """Refuses bodies over `limit` bytes, declared or not, with 413."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdigit() or int(declared) > self.limit:
            await self._too_large().response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise self._too_large()
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> ApiError:
        return ApiError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The body may have at most {self.limit} bytes.",
            code="payload_too_large",
            headers={"Connection": "close"},
        )
