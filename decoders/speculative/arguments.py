"""What an engine needs to be started with so that it speculates."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from decoders.speculative.settings import Speculation

SETTINGS = "decant.speculative"  # key of `additional_config`
# What speculation cannot be combined with, by engine argument, with the values that are harmless.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "speculative_config": (None,),
    "logits_processors": (None, [], ()),
    "pipeline_parallel_size": (None, 1),
    "worker_cls": (None, "auto"),
    "runner": (None, "auto", "generate"),
}
# The governor decides by the clock, and every rank would decide for itself.
RANKS = ("tensor_parallel_size", "data_parallel_size")


def speculative_arguments(
    settings: Speculation,
    arguments: Mapping[str, Any],
    *,
    guides: Sequence[str] = (),
    cache_methods: Sequence[str] = (),
    draft_path: str | None = None,
) -> dict[str, Any]:
    """vLLM engine arguments with speculation added.

    Args:
        settings: the engine option.
        arguments: the engine's arguments otherwise.
        guides: names of the engine's guides; any are refused.
        cache_methods: names of its KV-cache methods; any are refused.
        draft_path: where the draft model lies, if not at `settings.model`.

    Raises:
        ValueError: what cannot be combined with speculation, naming the field.
    """
    _require_compatible(settings, arguments, guides, cache_methods)
    config = settings.vllm_settings()
    if draft_path is not None:
        config["model"] = draft_path
    # Drafts whose length differs by row, and steps without any, are for the synchronous scheduler only.
    ours = settings.governor or settings.method == "adaptive_draft"
    if ours or _on_cpu():
        # A schedule keeps vLLM from padding the first step of a request found in the prefix cache with drafts
        # of token -1, which the CPU's rejection sampler looks up like any other, beyond its row.
        config["num_speculative_tokens_per_batch_size"] = [[1, 1, config["num_speculative_tokens"]]]
    return {
        **arguments,
        **({"async_scheduling": False} if ours else {}),
        "speculative_config": config,
        "per_request_spec_decode_metrics": "detailed",
        "worker_cls": f"decoders.speculative.{'cpu' if _on_cpu() else 'gpu'}_worker.SpeculatingWorker",
        "additional_config": {
            **(arguments.get("additional_config") or {}),
            SETTINGS: settings.model_dump(mode="json"),
        },
    }


def _require_compatible(
    settings: Speculation, arguments: Mapping[str, Any], guides: Sequence[str], cache_methods: Sequence[str]
) -> None:
    if guides:
        raise ValueError(
            "speculative cannot be combined with guides, which need logits processors that vLLM refuses "
            "beside speculation; leave one of them out or start a second engine"
        )
    if cache_methods:
        raise ValueError(
            "speculative cannot be combined with cache_methods: drafts are verified against the whole cache"
        )
    for name, harmless in UNSUPPORTED.items():
        if arguments.get(name) not in harmless:
            raise ValueError(f"speculative cannot be combined with args.{name}; leave one of them out")
    if settings.governor:
        for name in RANKS:
            if arguments.get(name) not in (None, 1):
                raise ValueError(f"speculative.governor must be false with args.{name} over 1")
    if arguments.get("async_scheduling") and (settings.governor or settings.method == "adaptive_draft"):
        raise ValueError(
            "args.async_scheduling must be false with speculative.governor or method adaptive_draft"
        )
    if settings.method == "suffix" and find_spec("arctic_inference") is None:
        raise ValueError(
            "speculative.method 'suffix' needs the package arctic-inference (0.1.1), which is not installed"
        )


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
