"""Real engines for the whole test run, in this process."""

from server.environment import prepare

prepare(engines=2, threads_per_engine=1, vllm_log_level="error", stop_strings=4)  # before vLLM is imported

import signal  # noqa: E402
from collections.abc import AsyncIterator  # noqa: E402

import pytest_asyncio  # noqa: E402

from server.config import ServeSettings  # noqa: E402
from server.engine import DecodingEngine  # noqa: E402

# A shell's background jobs ignore SIGINT, and so would every server that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest_asyncio.fixture(scope="session")
async def engine() -> AsyncIterator[DecodingEngine]:
    """The embedded base and small behind a DecodingEngine, as `decant serve` builds it."""
    from server.engines import create, describe, plan_engines
    from server.metrics import EngineMetrics
    from tests.inproc import in_process

    plans = plan_engines(ServeSettings(model=None))
    with in_process():
        engines = {plan.name: create(plan, EngineMetrics()) for plan in plans}
    yield DecodingEngine(engines, describe(plans, engines, "base"))
    for one in engines.values():
        one.shutdown()
