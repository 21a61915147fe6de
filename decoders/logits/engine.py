"""What an engine needs to be started with so that it can guide."""

from collections.abc import Mapping
from typing import Any

from decoders.compilation import piecewise
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
        **piecewise(arguments, "guides"),
        "hf_overrides": {**overrides, "architectures": [ARCHITECTURE]},
        "additional_config": {**(arguments.get("additional_config") or {}), GUIDES: dict(guides)},
        "logits_processors": [
            *(arguments.get("logits_processors") or ()),
            "decoders.logits.processor:GuideProcessor",
        ],
        "worker_extension_cls": WORKER,
    }


def register() -> None:
    """Make the composite architecture known to vLLM; called in every vLLM process."""
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "decoders.logits.composite:GuidedForCausalLM")
