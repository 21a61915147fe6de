"""Watches the engines: one that dies or hangs is started again, or ends the server."""

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import psutil
from vllm.platforms import current_platform

from server.acceptance import Engine
from server.backoff import Restarts
from server.config import ServeSettings
from server.engines import Plan
from server.group import EngineGroup
from server.metrics import METRICS
from server.progress import PROMPT_TOKENS, Pulse
from server.revival import kill, processes, release, start_core, take_over

logger = logging.getLogger("decant.server")

WATCH = 0.5  # seconds between looks at the engines
ENDS = {"dead": "died", "hung": "hung and was ended"}


class Supervisor:
    """Keeps `group.faults` true, starts dead engines again as often as is allowed, and says when to give up.

    Args:
        group: where requests read what is the matter with an engine.
        engines: by name, as they were started.
        plans: how each was started.
        settings: `restart_engines`, `restart_window_seconds`, `hang_seconds`.
    """

    def __init__(
        self,
        group: EngineGroup,
        engines: Mapping[str, Engine],
        plans: Sequence[Plan],
        settings: ServeSettings,
    ) -> None:
        self.group = group
        self.engines = engines
        self.plans = {plan.name: plan for plan in plans}
        self.settings = settings
        self.restarts = {
            name: Restarts(settings.restart_engines, settings.restart_window_seconds) for name in self.engines
        }
        self.pulses = {name: self._pulse() for name in self.engines} if settings.hang_seconds else {}
        self.processes = {name: processes(engine) for name, engine in self.engines.items()}
        self.starting: dict[str, asyncio.Task[None]] = {}
        self.looked = time.monotonic()
        self.closed = False
        self.given_up = asyncio.Event()

    def _pulse(self) -> Pulse:
        assert self.settings.hang_seconds is not None
        slowness = PROMPT_TOKENS["cpu" if current_platform.is_cpu() else "gpu"]
        return Pulse(self.settings.hang_seconds, 4 * WATCH, slowness)

    async def run(self) -> list[str]:
        """Watch until an engine is lost for good; the names of those that are."""
        while not self.given_up.is_set():
            now = time.monotonic()
            since, self.looked = now - self.looked, now
            for task in self.starting.values():
                if task.done():  # with an error: one that has done its work is not there any more
                    task.result()
            for name in self.engines.keys() - self.starting.keys():
                await self._look(name, since)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.given_up.wait(), WATCH)
        return [name for name in self.engines if self.group.condition(name) in ("dead", "hung")]

    async def close(self) -> None:
        """Stop watching, and end engines that are just being started."""
        self.closed = True
        tasks = list(self.starting.values())
        for task in tasks:
            task.cancel()
        if tasks:
            # The thread that starts a core cannot be interrupted; without its processes it ends by itself.
            await asyncio.to_thread(kill, psutil.Process().children(recursive=True))
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, name: str, since: float) -> None:
        engine, restarts = self.engines[name], self.settings.restart_engines > 0
        if engine.errored:
            reason: Literal["dead", "hung"] = "dead"
        elif self._hangs(name, engine, since):
            reason = "hung"
            logger.error("engine %s hangs: no step for %.0f s", name, self.pulses[name].without)
        else:
            return
        self.group.faults[name] = "restarting" if restarts else reason
        METRICS.engine_failures.labels(name, reason).inc()
        await asyncio.to_thread(kill, processes(engine) + self.processes[name])
        release(engine)
        if restarts:
            logger.error("engine %s %s", name, ENDS[reason])
            self.starting[name] = asyncio.create_task(self._start_again(name, engine))
        else:
            logger.error("engine %s %s; exiting", name, ENDS[reason])
            self.given_up.set()

    def _hangs(self, name: str, engine: Engine, since: float) -> bool:
        if name not in self.pulses:
            return False
        processor, scheduler = engine.output_processor, engine.vllm_config.scheduler_config
        requests = processor.get_num_unfinished_requests()
        prompts = processor.get_num_queued_tokens() if requests else 0
        most = min(prompts, scheduler.max_num_batched_tokens)
        return self.pulses[name].hangs(engine.steps.count, requests, most, since)

    async def _start_again(self, name: str, engine: Engine) -> None:
        while (wait := self.restarts[name].next()) is not None:
            count = len(self.restarts[name].begun)
            logger.warning(
                "engine %s: start %d of %d within %g s follows in %.1f s",
                *(name, count, self.settings.restart_engines, self.settings.restart_window_seconds, wait),
            )
            self.group.back_in[name] = math.ceil(wait) + 1
            await asyncio.sleep(wait)
            METRICS.engine_restarts.labels(name).inc()
            began = time.monotonic()
            try:
                core = await asyncio.to_thread(self._new_core, name, engine)
                take_over(engine, core)
            except Exception as error:
                logger.error("engine %s could not be started again: %s", name, _first_line(error))
                continue
            self.processes[name] = processes(engine)
            if self.pulses:
                self.pulses[name] = self._pulse()
            del self.starting[name], self.group.faults[name]
            self.group.start_seconds[name] = time.monotonic() - began
            logger.info("engine %s: ready again after %.1f s", name, self.group.start_seconds[name])
            return
        logger.error("engine %s was started %d times; giving up", name, self.settings.restart_engines)
        self.group.faults[name] = "dead"
        self.given_up.set()

    def _new_core(self, name: str, engine: Engine) -> Any:
        return start_core(engine, self.plans[name].arguments, lambda: self.closed)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
