"""What an engine needs to be started with so that it can end segments."""

from collections.abc import Iterable, Mapping
from typing import Any

from decoders.engine_process import WORKER

PROCESSOR = "decoders.sequence.switching.processor:EntropySwitch"


def obstacle(arguments: Mapping[str, Any]) -> str | None:
    """Why an engine of these vLLM arguments cannot switch, in words; None if it can."""
    if arguments.get("speculative_config") is not None:
        return "it speculates"
    if arguments.get("pipeline_parallel_size") not in (None, 1):
        return "its layers are spread over a pipeline"
    if arguments.get("data_parallel_size") not in (None, 1):
        return "it has data-parallel replicas"
    return None


def switching_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM engine arguments with the switch added."""
    return {
        **arguments,
        "logits_processors": [*(arguments.get("logits_processors") or ()), PROCESSOR],
        "worker_extension_cls": WORKER,
    }


def spare_token(
    vocabulary: Mapping[str, int], special: Mapping[str, int | None], sizes: Iterable[int]
) -> int | None:
    """A token that no answer needs, to end segments with; None if there is none.

    The first that is there: an id that the models have and the tokenizer does not, the padding token, the
    unknown token, the token that begins a text.

    Args:
        vocabulary: the tokenizer's, with added tokens.
        special: ids by role: `pad`, `unk`, `bos`, and `eos`, which is never taken.
        sizes: the models' vocabulary sizes.
    """
    first = max(vocabulary.values()) + 1
    if first < min(sizes):
        return first
    for role in ("pad", "unk", "bos"):
        token = special.get(role)
        if token is not None and token != special.get("eos"):
            return token
    return None
