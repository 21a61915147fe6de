"""Settings made into an application over engines that are up and warm, whoever serves it."""

import asyncio
from dataclasses import dataclass

from fastapi import FastAPI
from vllm.utils.gc_utils import freeze_gc_heap

from server.acceptance import Engine
from server.app import build_app
from server.config import ServeSettings
from server.engine import DecodingEngine
from server.engines import describe, plan_engines, require_presets, start_engines
from server.metrics import EngineMetrics
from server.routes import State
from server.supervisor import Supervisor
from server.tracing import Tracing, tracing_to


@dataclass
class Assembly:
    """What is to be served, what watches its engines, and what is to be closed in the end."""

    app: FastAPI
    supervisor: Supervisor
    tracing: Tracing | None

    @property
    def state(self) -> State:
        state: State = self.app.state.decant
        return state

    async def close(self) -> None:
        """End the engines and all that was started for them."""
        await self.supervisor.close()
        await self.state.guard.close()
        await asyncio.to_thread(self.state.engine.shutdown, 0)
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)


async def assemble(settings: ServeSettings) -> Assembly:
    """Start the engines and warm them up.

    Errors: ConfigError for what cannot be served; nothing is left running then.
    """
    plans = plan_engines(settings)
    metrics = EngineMetrics()
    tracing = tracing_to(settings.otlp_endpoint) if settings.otlp_endpoint else None
    engines: dict[str, Engine] = {}
    try:
        engines = await start_engines(plans, metrics)
        deployment = describe(plans, engines, settings.default_engine_name())
        limit, restarts = settings.limits.prompt_tokens, settings.restart_engines > 0
        seen = tracing.engines(engines) if tracing is not None else engines
        engine = DecodingEngine(seen, deployment, limit, restarts)
        require_presets(settings, deployment)
        app = build_app(engine, settings, metrics, tracing)
        made = Assembly(app, Supervisor(engine, engines, plans, settings), tracing)
        await asyncio.to_thread(made.state.handlers.warmup)
        await engine.get_supported_tasks()  # vLLM would ask at the first request, and again after a death
    except BaseException:
        for started in engines.values():
            await asyncio.to_thread(started.shutdown, timeout=0)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
        raise
    freeze_gc_heap()  # what is loaded stays; collections need not walk it again and again
    return made
