"""What an engine needs to be started with so that it can guide."""

from collections.abc import Mapping
from typing import Any

from decoders.engine_process import WORKER
from decoders.logits.channel import GUIDES

ARCHITECTURE = "DecantGuidedForCausalLM"
# What the composite model does not do yet, by engine argument, with the values that are harmless.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "pipeline_parallel_size": (None, 1),
    "speculative_config": (None,),
    "enable_lora": (None, False),
    "runner": (None, "auto", "generate"),
    "logprobs_mode": (None, "raw_logprobs"),
    "data_parallel_size": (None, 1),
    "worker_extension_cls": (None, ""),
    # Other loaders leave the guides' weights out, or do not know where they lie.
    "load_format": (None, "auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "npcache", "pt"),
}


def guided_arguments(guides: Mapping[str, str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM engine arguments with the guides added.

    Args:
        guides: paths by name.
        arguments: the engine's arguments otherwise.

    Raises:
        ValueError: an argument that an engine with guides cannot have.
    """
    for name, harmless in UNSUPPORTED.items():
        if arguments.get(name) not in harmless:
            raise ValueError(
                f"{name} cannot be combined with guides; leave it out or start the engine without guides"
            )
    overrides = arguments.get("hf_overrides") or {}
    if not isinstance(overrides, dict) or "architectures" in overrides:
        raise ValueError("hf_overrides must be a mapping without 'architectures' in an engine with guides")
    return {
        **arguments,
        **_compilation(arguments),
        "hf_overrides": {**overrides, "architectures": [ARCHITECTURE]},
        "additional_config": {**(arguments.get("additional_config") or {}), GUIDES: dict(guides)},
        "logits_processors": [
            *(arguments.get("logits_processors") or ()),
            "decoders.logits.processor:GuideProcessor",
        ],
        "worker_extension_cls": WORKER,
    }


def _compilation(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Only pieces may be captured: a graph of the whole would keep the guides running, or out, for ever."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu() or arguments.get("enforce_eager"):
        return {}
    given = arguments.get("compilation_config") or {}
    if not isinstance(given, dict):
        raise ValueError("compilation_config must be a mapping in an engine with guides")
    mode = str(given.get("cudagraph_mode", "PIECEWISE")).upper()
    if mode not in ("PIECEWISE", "NONE"):
        raise ValueError(
            "compilation_config.cudagraph_mode must be PIECEWISE or NONE in an engine with guides"
        )
    return {"compilation_config": {**given, "cudagraph_mode": mode}}


def register() -> None:
    """Make the composite architecture known to vLLM; called in every vLLM process."""
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "decoders.logits.composite:GuidedForCausalLM")
