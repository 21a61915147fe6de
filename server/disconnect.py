"""Work that ends when its client leaves."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import Receive

from server.metrics import METRICS

T = TypeVar("T")

CLIENT_CLOSED = 499  # nginx's status for a client that left; nobody reads it but logs and metrics


async def until_disconnect(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The work's response, or an empty one if the client disconnects first; the work is then cancelled.

    The request's body must have been read: what arrives while this waits is thrown away.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        METRICS.disconnected.labels(request.scope["path"]).inc()
        return Response(status_code=CLIENT_CLOSED)
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
