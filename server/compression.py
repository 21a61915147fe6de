"""What the cache layer did: in a request's report, and in the metrics of each engine that compresses."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from vllm.engine.protocol import EngineClient

from decoders.cache.compressed import CompressedMethod
from decoders.cache.plan import make_plan
from decoders.deployment import Deployment
from server.metrics import METRICS
from server.watching import PATIENCE, Watch, count_up

logger = logging.getLogger("decant.cache")


def begin(method: CompressedMethod, layer: dict[str, Any], tokens: int, engine: EngineClient) -> None:
    """Say in the report's `cache` layer what becomes of a prompt of this many tokens; several add up."""
    size = int(engine.vllm_config.cache_config.block_size)
    settings = method.settings() if method.budget < 1 else None
    plan = make_plan(tokens, settings, size)
    kept = tokens - (plan.skip(tokens) * size if plan is not None else 0)
    _add(layer, {"prompt_tokens": tokens, "kept_slots": kept})
    if plan is None and method.budget < 1:
        layer["warning"] = (
            f"the budget frees nothing of a prompt of {tokens} tokens: prompts from min_prompt on are "
            f"compressed, in whole blocks of {size} tokens, without the sinks and the recent ones"
        )
        logger.warning("a cache budget of %g frees nothing of a prompt of %d tokens", method.budget, tokens)


class Measured:
    """What one prompt asks its engine at its end: what was compressed, and how long it took."""

    def __init__(self, engine: EngineClient, key: str, layer: dict[str, Any]) -> None:
        self.engine, self.key, self.layer = engine, key, layer

    async def settle(self) -> None:
        """Put it into the report; an engine that cannot tell any more does not spoil the answer."""
        try:
            asked = self.engine.collective_rpc("decant_take_compressions", args=(self.key,))
            answers = await asyncio.wait_for(asked, PATIENCE)
        except Exception as error:
            logger.warning("no report of what was compressed: %s", error)
            return
        # With tensor parallelism every worker compresses its own heads, all at the same time.
        found = [one for one in answers if one] or [{"compressions": 0, "freed_blocks": 0, "seconds": 0.0}]
        slowest = max(one["seconds"] for one in found)
        values = {name: found[0][name] for name in ("compressions", "freed_blocks")}
        _add(self.layer, {**values, "merge_ms": round(1000 * slowest, 3)})


def _add(layer: dict[str, Any], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        layer[name] = layer.get(name, 0) + value


def watch(engines: Mapping[str, Any], deployment: Deployment) -> Watch:
    """What asks the engines with cache methods what they have compressed, for the metrics."""
    asked = {name: engines[name] for name, facts in deployment.engines.items() if facts.cache_methods}
    return Watch(asked, "decant_cache", _show)


def _show(engine: str, answers: Sequence[Mapping[str, Any]]) -> None:
    """With tensor parallelism every worker tells the same blocks; the first one's seconds stand for all."""
    state = answers[0]
    count_up(METRICS.kv_blocks_freed, (engine,), state["freed_blocks"])
    for seconds in state["seconds"]:
        METRICS.kv_merge_seconds.labels(engine).observe(seconds)
