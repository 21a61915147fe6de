"""An engine whose core has ended: what was left is ended too, and a new core takes its place.

The AsyncLLM object stays, with its tokenizer, output processor and metrics, so that whoever holds it goes on.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import psutil
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.executor import Executor
from vllm.v1.metrics.stats import SchedulerStats

END_SECONDS = 10.0  # that killed processes get to be gone


def processes(engine: AsyncLLM) -> list[psutil.Process]:
    """The engine's core and what it has started, workers first; none for cores on other machines."""
    manager = engine.engine_core.resources.engine_manager
    found: list[psutil.Process] = []
    for started in getattr(manager, "processes", ()):
        with contextlib.suppress(psutil.NoSuchProcess):
            core = psutil.Process(started.pid)
            found += [*core.children(recursive=True), core]
    return found


def kill(left: list[psutil.Process]) -> None:
    """End processes whatever state they are in, and wait until they are gone."""
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    # Not psutil.wait_procs, which would take the exit status away from vLLM's own watch over its children.
    deadline = time.monotonic() + END_SECONDS
    while any(_runs(process) for process in left) and time.monotonic() < deadline:
        time.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def release(engine: AsyncLLM) -> None:
    """End everything that waits for a dead core: requests, and calls that vLLM would leave without an answer.

    To be called on the event loop.
    """
    for answer in list(getattr(engine.engine_core, "utility_results", {}).values()):
        if not answer.done():
            answer.set_exception(EngineDeadError())
            answer.exception()  # its caller may have gone: nothing to warn of
    processor = engine.output_processor
    processor.propagate_error(EngineDeadError())
    processor.abort_requests(list(processor.request_states), internal=True)
    if engine.logger_manager is not None:  # the last step's numbers would stand for ever
        engine.logger_manager.record(scheduler_stats=SchedulerStats(), iteration_stats=None)


def start_core(engine: AsyncLLM, arguments: dict[str, Any], unwanted: Callable[[], bool]) -> EngineCoreClient:
    """A new core for the engine, up and with its model loaded. Blocks; raises what hinders the start.

    unwanted: asked before the new process begins.
    """
    engine.engine_core.shutdown(timeout=0)
    config = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)
    if unwanted():
        raise RuntimeError("the server is ending")
    return EngineCoreClient.make_async_mp_client(
        vllm_config=config,
        executor_class=Executor.get_class(config),
        log_stats=engine.log_stats,
        renderer=engine.renderer,
    )


def take_over(engine: AsyncLLM, core: EngineCoreClient) -> None:
    """Let the engine go on with a new core. To be called on the event loop."""
    release(engine)
    if engine.output_handler is not None:
        engine.output_handler.cancel()
    engine.engine_core = core
    engine.output_handler = None
    engine._run_output_handler()
