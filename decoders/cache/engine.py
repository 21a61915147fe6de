"""What an engine needs to be started with so that it can compress its cache."""

from collections.abc import Mapping, Sequence
from typing import Any

from decoders.compilation import piecewise
from decoders.engine_process import CACHE_SCHEDULER

METHODS = "decant.cache_methods"  # key of `additional_config`
# What compression cannot be combined with, by engine argument, with the values that are harmless.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "scheduler_cls": (None,),
    "worker_cls": (None, "auto"),
    "speculative_config": (None,),
    "pipeline_parallel_size": (None, 1),
    "decode_context_parallel_size": (None, 1),
    "prefill_context_parallel_size": (None, 1),
    "runner": (None, "auto", "generate"),
}


def cache_arguments(methods: Sequence[str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM engine arguments with scheduler, block manager, attention and worker that compress.

    All of them come with these arguments and none without: an engine started without is vLLM's own.

    Args:
        methods: names of the cache methods that requests may ask for.
        arguments: the engine's arguments otherwise.

    Raises:
        ValueError: an argument that cannot be combined with cache methods.
    """
    for name, harmless in UNSUPPORTED.items():
        if arguments.get(name) not in harmless:
            raise ValueError(f"cache_methods cannot be combined with args.{name}; leave one of them out")
    if str(arguments.get("kv_cache_dtype") or "auto") not in ("auto", "float16", "bfloat16", "float32"):
        raise ValueError(
            "cache_methods cannot be combined with a quantised cache (args.kv_cache_dtype); leave one out"
        )
    connector = arguments.get("kv_transfer_config")
    if connector is not None and not _of_decant(connector):
        raise ValueError(
            "cache_methods cannot be combined with args.kv_transfer_config: a connector would carry away "
            "blocks that are rewritten in place"
        )
    device = "cpu" if _on_cpu() else "gpu"
    return {
        **arguments,
        **piecewise(arguments, "cache_methods"),
        "scheduler_cls": CACHE_SCHEDULER,
        "worker_cls": f"decoders.cache.{device}_worker.CompressingWorker",
        "additional_config": {**(arguments.get("additional_config") or {}), METHODS: list(methods)},
    }


def _of_decant(connector: Any) -> bool:
    """Whether a connector is one of ours, which leave requests with a cache method alone."""
    named = connector.get("kv_connector_module_path") if isinstance(connector, Mapping) else None
    return str(named or "").startswith("decoders.")


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def register() -> None:
    """Make the cache's spec known to vLLM; called in every vLLM process."""
    from decoders.cache import scheduler

    scheduler.register()
