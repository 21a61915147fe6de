"""Starting the engines: arguments, checks that fail fast, progress."""

import asyncio
import dataclasses
import difflib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.tokenizers import get_tokenizer
from vllm.usage.usage_lib import UsageContext

from decoders.cache.engine import cache_arguments
from decoders.deployment import Deployment, EngineFacts
from decoders.engine_process import SCHEDULER
from decoders.errors import Refusal
from decoders.logits.engine import guided_arguments
from decoders.registry import methods
from decoders.request import Decoding
from decoders.sequence.switching.engine import PROCESSOR, obstacle, spare_token, switching_arguments
from decoders.speculative.arguments import speculative_arguments
from decoders.vocabulary import fingerprint
from server.acceptance import Engine
from server.config import ConfigError, EngineSettings, ServeSettings
from server.metrics import EngineMetrics, stat_logger
from server.models import EMBEDDED_ARGUMENTS, locate, weight_bytes
from server.progress import Steps

logger = logging.getLogger("decant.engines")

RESERVED = frozenset({"model", "served_model_name", "enable_log_requests", "disable_log_stats"})
HEARTBEAT = 10.0  # seconds between "still loading" lines
GIB = 1 << 30


@dataclasses.dataclass
class Plan:
    """One engine, checked and ready to be started."""

    name: str
    settings: EngineSettings
    path: str
    arguments: dict[str, Any]


def plan_engines(settings: ServeSettings) -> list[Plan]:
    """Every engine with its arguments. Errors: ConfigError for a model, argument or guide that cannot be."""
    table = settings.engine_table()
    plans = []
    for name, engine in table.items():
        path = locate(engine.model)
        for argument in {**settings.engine_args, **engine.args}:
            _require_argument(name, argument)
        _require_cache_methods(name, engine)
        arguments = {
            **_defaults(settings, len(table)),
            **settings.engine_args,
            **engine.args,
            "model": path,
            "served_model_name": settings.model_name(),
        }
        if engine.guides:
            guides = {guide: locate(model) for guide, model in engine.guides.items()}
            try:
                arguments = guided_arguments(guides, arguments)
            except ValueError as error:
                raise ConfigError(f"engine {name}: {error}") from None
        if engine.speculative is not None:
            arguments = _speculative(name, engine, arguments)
        if engine.cache_methods:
            try:
                arguments = cache_arguments(engine.cache_methods, arguments)
            except ValueError as error:
                raise ConfigError(f"engine {name}: {error}") from None
        if len(table) > 1 and engine.switching and obstacle(arguments) is None:
            arguments = switching_arguments(arguments)
        arguments.setdefault("scheduler_cls", SCHEDULER)
        plans.append(Plan(name, engine, path, arguments))
    _require_one_vocabulary(plans, settings.default_engine_name())
    _require_memory(plans)
    return plans


def _speculative(name: str, engine: EngineSettings, arguments: Mapping[str, Any]) -> dict[str, Any]:
    assert engine.speculative is not None
    draft = engine.speculative.draft_model()
    try:
        return speculative_arguments(
            engine.speculative,
            arguments,
            guides=tuple(engine.guides),
            cache_methods=tuple(engine.cache_methods),
            draft_path=locate(draft) if draft is not None else None,
        )
    except ValueError as error:
        raise ConfigError(f"engine {name}: {error}") from None


def _draft_path(plan: Plan) -> str | None:
    """Where the model that drafts for this engine lies; None if there is none."""
    draft = plan.settings.speculative.draft_model() if plan.settings.speculative is not None else None
    return locate(draft) if draft is not None else None


def _defaults(settings: ServeSettings, engines: int) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "max_logprobs": max(settings.limits.logprobs, 2 * settings.limits.n),  # a beam needs two a width
        "enable_prefix_caching": True,
        # vLLM's own choice, 'auto', takes another compiler where xgrammar refuses a schema, but an engine
        # keeps the first it was asked for, which then passes over what it does not know.
        "structured_outputs_config": {"backend": "xgrammar"},
        "use_tqdm_on_load": settings.vllm_log_level in ("debug", "info"),
    }
    if current_platform.is_cpu():
        # vLLM's own default takes most of the machine, for each engine.
        share = psutil.virtual_memory().available * 0.4 / engines
        defaults |= {"distributed_executor_backend": "uni", "kv_cache_memory_bytes": int(min(share, 4 * GIB))}
    if settings.is_embedded:
        defaults |= EMBEDDED_ARGUMENTS
    return defaults


def _require_argument(engine: str, argument: str) -> None:
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)} - RESERVED
    if argument not in known:
        near = difflib.get_close_matches(argument, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"engine {engine}: vLLM has no engine argument {argument!r} to set here{hint}")


def _require_cache_methods(name: str, engine: EngineSettings) -> None:
    known = methods("cache")
    for method in engine.cache_methods:
        if method not in known:
            allowed = ", ".join(known) or "none in this version"
            raise ConfigError(f"engine {name}: unknown cache method {method!r}; known: {allowed}")


def _reason(error: Exception) -> str:
    """The line of an error that says most: pydantic's and the hub's come after a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = lines[1:]
    return lines[0].split(" [type=")[0].removeprefix("Value error, ") if lines else type(error).__name__


TOKENIZER_ARGUMENTS = ("tokenizer_mode", "trust_remote_code", "download_dir")


def _of_tokenizer(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: arguments[name] for name in TOKENIZER_ARGUMENTS if name in arguments}


def _tokenizer(path: str, who: str, arguments: Mapping[str, Any]) -> Any:
    chosen = _of_tokenizer(arguments)
    revision = arguments.get("tokenizer_revision") or arguments.get("revision")
    try:
        return get_tokenizer(path, revision=revision, **chosen)
    except Exception as error:
        raise ConfigError(f"{who}: no model or no tokenizer at {path}: {_reason(error)}") from error


def _require_one_vocabulary(plans: list[Plan], default: str) -> None:
    """Engines and guides hand token ids to each other, so all must mean the same by them."""
    base = next(plan for plan in plans if plan.name == default)
    others: list[tuple[str, str, Mapping[str, Any]]] = [
        (f"guide {guide} of engine {plan.name}", locate(model), _of_tokenizer(plan.arguments))
        for plan in plans
        for guide, model in plan.settings.guides.items()
    ]
    others += [
        (f"engine {plan.name}", plan.arguments.get("tokenizer") or plan.path, plan.arguments)
        for plan in plans
        if plan is not base
    ]
    others += [
        (f"speculative.model of engine {plan.name}", path, {})
        for plan in plans
        if plan.settings.speculative is not None and plan.settings.speculative.shares_vocabulary()
        if (path := _draft_path(plan)) is not None
    ]
    path = base.arguments.get("tokenizer") or base.path
    if not others and Path(path).is_dir():
        return  # a hub id is asked for all the same: if it is not there, that is known at once
    expected = fingerprint(_tokenizer(path, f"engine {default}", base.arguments))
    for who, other, arguments in others:
        if fingerprint(_tokenizer(other, who, arguments)) != expected:
            raise ConfigError(f"{who}: {other} has another vocabulary than engine {default} ({base.path})")


def _require_memory(plans: list[Plan]) -> None:
    if not current_platform.is_cpu():
        return
    weights = sum(weight_bytes(plan.path) for plan in plans)
    weights += sum(weight_bytes(locate(model)) for plan in plans for model in plan.settings.guides.values())
    weights += sum(weight_bytes(path) for plan in plans if (path := _draft_path(plan)) is not None)
    sizes = [plan.arguments.get("kv_cache_memory_bytes") or 0 for plan in plans]
    if not all(isinstance(size, int) for size in sizes):
        raise ConfigError("engine_args.kv_cache_memory_bytes: a whole number of bytes is required")
    cache = sum(sizes)
    available = psutil.virtual_memory().available
    if weights + cache > available:
        raise ConfigError(
            f"not enough memory: {weights / GIB:.1f} GiB of weights and {cache / GIB:.1f} GiB of KV cache, "
            f"{available / GIB:.1f} GiB available; lower engine_args.kv_cache_memory_bytes"
        )


# ---- starting ------------------------------------------------------------------------------------------


def create(plan: Plan, metrics: EngineMetrics) -> Engine:
    """The engine, with its core process up. Blocks until the model is loaded."""
    try:
        arguments, steps = AsyncEngineArgs(**plan.arguments), Steps()
        engine = Engine.from_engine_args(
            arguments,
            usage_context=UsageContext.OPENAI_API_SERVER,  # what vLLM's defaults for batches depend on
            stat_loggers=[stat_logger(metrics.registry(plan.name)), steps],
        )
        engine.steps = steps
        return engine
    except ConfigError:
        raise
    except Exception as error:
        reason = _reason(error)
        raise ConfigError(
            f"engine {plan.name}: {plan.settings.model} could not be started: {reason}"
        ) from error


async def start_engines(plans: list[Plan], metrics: EngineMetrics) -> dict[str, Engine]:
    """All engines, started side by side. If one fails, the others are shut down and its error is raised."""

    async def start(plan: Plan) -> Engine:
        began = time.perf_counter()
        logger.info("engine %s: loading %s", plan.name, plan.settings.model)
        beat = asyncio.create_task(_heartbeat(plan.name, began))
        try:
            engine = await asyncio.to_thread(create, plan, metrics)
        finally:
            beat.cancel()
        logger.info("engine %s: ready after %.1f s", plan.name, time.perf_counter() - began)
        return engine

    results = await asyncio.gather(*(start(plan) for plan in plans), return_exceptions=True)
    started = {
        plan.name: result for plan, result in zip(plans, results, strict=True) if isinstance(result, Engine)
    }
    for result in results:
        if isinstance(result, BaseException):
            for engine in started.values():
                engine.shutdown(timeout=0)
            raise result
    return started


async def _heartbeat(name: str, began: float) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT)
        logger.info("engine %s: still loading after %.0f s", name, time.perf_counter() - began)


def describe(plans: list[Plan], engines: Mapping[str, Engine], default: str) -> Deployment:
    """What runs, as the decoding methods see it."""
    facts = {
        plan.name: EngineFacts(
            model=plan.settings.model,
            max_model_len=engines[plan.name].model_config.max_model_len,
            guides=tuple(plan.settings.guides),
            cache_methods=tuple(plan.settings.cache_methods),
            switches=PROCESSOR in (plan.arguments.get("logits_processors") or ()),
            speculative=plan.settings.speculative.method if plan.settings.speculative is not None else None,
        )
        for plan in plans
    }
    return Deployment(default, facts, _spare_token(engines, default))


def _spare_token(engines: Mapping[str, Engine], default: str) -> int | None:
    tokenizer = engines[default].renderer.tokenizer
    if tokenizer is None:
        return None
    special = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("pad", "unk", "bos", "eos")}
    sizes = [engine.model_config.get_vocab_size() for engine in engines.values()]
    return spare_token(tokenizer.get_vocab(), special, sizes)


def require_presets(settings: ServeSettings, deployment: Deployment) -> None:
    """Raise ConfigError for a preset that asks for what this deployment does not offer."""
    for name, preset in settings.presets.items():
        decoding: Decoding = preset.decoding
        try:
            decoding.admit(deployment)
        except Refusal as refusal:
            where = f"presets.{name}.{refusal.param or 'decoding'}"
            raise ConfigError(f"{where}: {refusal.message}") from None
