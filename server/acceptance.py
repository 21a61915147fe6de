"""vLLM's engine, which also says when it has taken a request, and what it keeps of it.

A stream's headers can then leave while the engine computes the first token, and a request that the engine
refuses still gets its own status. What it keeps tells how far a request came whose client left before it saw
any of it.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import RequestState

from server.progress import Steps

ACCEPTED: ContextVar[asyncio.Event | None] = ContextVar("accepted", default=None)
TAKEN: ContextVar[Callable[[list[RequestState]], None] | None] = ContextVar("taken", default=None)


class Engine(AsyncLLM):
    """AsyncLLM that sets the current request's ACCEPTED once the request has passed every check, and gives
    its TAKEN what it keeps of each choice.

    steps: those it has reported.
    """

    steps: Steps

    async def add_request(self, *args: Any, **kwargs: Any) -> Any:
        queue = await super().add_request(*args, **kwargs)
        if (accepted := ACCEPTED.get()) is not None:
            accepted.set()
        if (taken := TAKEN.get()) is not None:
            taken(self._states(queue.request_id))
        return queue

    async def _add_request(self, request: EngineCoreRequest, *args: Any, **kwargs: Any) -> None:
        """vLLM's, which registers a request and then waits for its sending: ended there, nothing would ever
        take it off the register.
        """
        try:
            await super()._add_request(request, *args, **kwargs)
        except BaseException:
            await self.abort(request.request_id, internal=True)
            raise

    def _states(self, id: str) -> list[RequestState]:
        processor = self.output_processor
        parent = processor.parent_requests.get(id)
        ids = parent.child_requests if parent is not None else (id,)
        return [processor.request_states[one] for one in ids if one in processor.request_states]
