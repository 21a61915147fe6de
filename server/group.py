"""The engines of one served model as one EngineClient: their condition, aborts, the control plane."""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal

from vllm.engine.protocol import EngineClient
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import OutputProcessor

from decoders.deployment import Deployment

Condition = Literal["up", "hung", "dead", "restarting"]

START_SECONDS = 10  # taken for a start's length before one was seen


class EngineGroup(EngineClient):
    """Named engines behind vLLM's engine interface; the default one stands for what only one can say.

    Args:
        engines: AsyncLLM engines by name; all share one tokenizer.
        deployment: what they are, and which is the default.
        restarts: whether a dead engine is started again, so that the others go on meanwhile.
    """

    def __init__(
        self, engines: Mapping[str, EngineClient], deployment: Deployment, restarts: bool = False
    ) -> None:
        self.engines: dict[str, Any] = dict(engines)
        self.deployment = deployment
        self.restarts = restarts
        self.faults: dict[str, Condition] = {}  # engines that are not up, as their supervisor sees them
        self.back_in: dict[str, int] = {}  # seconds until an engine's next start
        self.start_seconds: dict[str, float] = {}  # that its last start took
        self.base = self.engines[deployment.default]
        self.vllm_config = self.base.vllm_config
        self.model_config = self.base.model_config
        self.renderer = self.base.renderer
        self.input_processor = self.base.input_processor
        self.output_processor = OutputProcessor(self.renderer.tokenizer, log_stats=False)

    # ---- state -----------------------------------------------------------------------------------------

    def condition(self, name: str) -> Condition:
        """How an engine fares, also before its supervisor has looked."""
        if name in self.faults:
            return self.faults[name]
        if self.engines[name].errored:
            return "restarting" if self.restarts else "dead"
        return "up"

    def lost(self, names: Iterable[str]) -> str | None:
        """The first of these engines that takes no requests now."""
        return next((name for name in names if self.condition(name) != "up"), None)

    def dead_engines(self) -> list[str]:
        """Engines that will not come back."""
        return [name for name in self.engines if self.condition(name) in ("dead", "hung")]

    def retry_after(self, name: str) -> int:
        """Seconds after which it is worth asking a restarting engine again; an estimate."""
        return self.back_in.get(name, 1) + math.ceil(self.start_seconds.get(name, START_SECONDS))

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        self.base.check_admission(n, request_id)

    @property
    def is_running(self) -> bool:
        return all(engine.is_running for engine in self.engines.values())

    @property
    def is_stopped(self) -> bool:
        return self.errored

    @property
    def errored(self) -> bool:
        """Whether no request at all is to be begun: vLLM's handlers ask."""
        return bool(self.dead_engines())

    @property
    def dead_error(self) -> BaseException:
        return EngineDeadError()

    # ---- control ---------------------------------------------------------------------------------------

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """End requests; their outputs so far are delivered with finish_reason 'abort'."""
        ids = [request_id] if isinstance(request_id, str) else list(request_id)
        self.output_processor.abort_requests(ids, internal=False)
        for engine in self.engines.values():
            with suppress(Exception):  # a dead engine has nothing left to abort
                await engine.abort(ids)

    def shutdown(self, timeout: float | None = None) -> None:
        for engine in self.engines.values():
            engine.shutdown(timeout=timeout)

    async def get_supported_tasks(self) -> Any:
        return await self.base.get_supported_tasks()

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        return self.base.encode(*args, **kwargs)


def _fan_out(name: str) -> Any:
    async def call(self: EngineGroup, *args: Any, **kwargs: Any) -> Any:
        results = [await getattr(engine, name)(*args, **kwargs) for engine in self.engines.values()]
        return all(results) if isinstance(results[0], bool) else results[0]

    call.__name__ = name
    return call


# The control plane (sleep, profiling, caches, adapters, ...) goes to every engine.
for _name in sorted((EngineGroup.__abstractmethods__ - {"generate"}) | {"collective_rpc"}):
    setattr(EngineGroup, _name, _fan_out(_name))
EngineGroup.__abstractmethods__ = frozenset({"generate"})
