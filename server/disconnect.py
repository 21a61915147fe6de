"""Work that ends when its client leaves."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import Response
from starlette.types import Receive

from server.metrics import METRICS

CLIENT_CLOSED = 499  # nginx's status for a client that left; nobody reads it but logs and metrics


class Departure:
    """The client's leaving, watched for from when its request has been read.

    What else the client sends on the connection until then is thrown away. `close` ends the watch.
    """

    def __init__(self, receive: Receive, path: str) -> None:
        self.path = path
        self.left = asyncio.ensure_future(_disconnected(receive))

    async def cancels(self, work: Coroutine[Any, Any, Response]) -> Response:
        """The work's response, or an empty one if the client leaves first; the work is then cancelled."""
        task = asyncio.current_task()
        assert task is not None
        running, cancelled = True, False

        def cancel(_: asyncio.Future[None]) -> None:
            nonlocal cancelled
            if running:  # a callback that is due already cannot be taken back
                cancelled = task.cancel()

        self.left.add_done_callback(cancel)
        try:
            # In this very task: one of its own would start behind everything that is ready to run.
            response = await work
            if not cancelled:
                return response
        except asyncio.CancelledError:
            if not cancelled or task.cancelling() > 1:  # by someone else
                raise
        except Exception:  # vLLM's handlers make an error of their being cancelled
            if not cancelled:
                raise
        finally:
            running = False
            self.left.remove_done_callback(cancel)
            if cancelled:
                task.uncancel()
        self.count()
        return Response(status_code=CLIENT_CLOSED)

    def count(self) -> None:
        """Note that the client left before its answer was complete."""
        METRICS.disconnected.labels(self.path).inc()

    def close(self) -> None:
        self.left.cancel()


async def _disconnected(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
