"""vLLM's engine, which also says when it has taken a request.

A stream's headers can then leave while the engine computes the first token, and a request that the engine
refuses still gets its own status.
"""

import asyncio
from contextvars import ContextVar
from typing import Any

from vllm.v1.engine.async_llm import AsyncLLM

from server.progress import Steps

ACCEPTED: ContextVar[asyncio.Event | None] = ContextVar("accepted", default=None)


class Engine(AsyncLLM):
    """AsyncLLM that sets the current request's ACCEPTED once the request has passed every check.

    steps: those it has reported.
    """

    steps: Steps

    async def add_request(self, *args: Any, **kwargs: Any) -> Any:
        queue = await super().add_request(*args, **kwargs)
        if (accepted := ACCEPTED.get()) is not None:
            accepted.set()
        return queue
