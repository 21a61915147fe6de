"""AsyncLLM with its engine core on a thread of this process: real engines for tests, up in seconds.

vLLM itself starts a process for every core behind an AsyncLLM; this fills that one gap with a small client
and leaves everything else (scheduler, worker, model, output processor) as it is. CPU only.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from unittest import mock

from vllm.v1.engine.core_client import EngineCoreClient, InprocClient

THREAD = ThreadPoolExecutor(1, thread_name_prefix="engine-cores")


class ThreadedClient(InprocClient):
    """Every call on any engine core runs on one thread.

    vLLM's CPU attention keeps scratch memory in the process; two cores that step at once write into it both.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.engine_ranks_managed = [0]
        self.resources = SimpleNamespace(engine_dead=False)
        self._wake = asyncio.Event()

    async def _call(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(THREAD, function, *args)

    async def get_output_async(self) -> Any:
        while True:
            if self.engine_core.scheduler.has_requests():
                return await self._call(self.get_output)
            self._wake.clear()
            await self._wake.wait()

    async def add_request_async(self, request: Any) -> None:
        await self._call(self.add_request, request)
        self._wake.set()

    def shutdown(self, timeout: float | None = None) -> None:
        THREAD.submit(super().shutdown).result()


def _on_thread(name: str) -> Any:
    async def call(self: ThreadedClient, *args: Any, **kwargs: Any) -> Any:
        return await self._call(lambda: getattr(self, name.removesuffix("_async"))(*args, **kwargs))

    return call


for _name in dir(EngineCoreClient):
    if _name.endswith("_async") and _name not in vars(ThreadedClient):
        setattr(ThreadedClient, _name, _on_thread(_name))


@contextlib.contextmanager
def in_process() -> Iterator[None]:
    """AsyncLLM objects made inside run their core on a thread."""

    def make(vllm_config: Any, executor_class: Any, log_stats: bool, **_: Any) -> ThreadedClient:
        return ThreadedClient(vllm_config, executor_class, log_stats)

    with (
        mock.patch.dict(os.environ, {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}),
        mock.patch.object(EngineCoreClient, "make_async_mp_client", make),
    ):
        yield
