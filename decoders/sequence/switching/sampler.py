"""A look at the model's own logits, and a mark on sampled tokens: what vLLM's processors cannot do."""

from functools import wraps
from typing import Any

from torch import Tensor
from vllm.v1.sample.sampler import Sampler


def watch_raw_logits() -> None:
    """Let vLLM's sampler show its logits to each processor that has `observe`, before it changes them.

    Afterwards the sampled tokens `[rows, 1]` go to its `mark`. Acts on the whole process, once. vLLM 0.32 has
    no hook there: a processor's `apply` comes after allowed tokens and bad words, whose masks would change
    the entropy.
    """
    original = Sampler.forward
    if getattr(original, "shows_logits", False):
        return

    @wraps(original)
    def forward(self: Sampler, logits: Tensor, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        watching = [
            processor
            for processor in sampling_metadata.logitsprocs.non_argmax_invariant
            if hasattr(processor, "observe")
        ]
        for processor in watching:
            processor.observe(logits)
        output = original(self, logits, sampling_metadata, *args, **kwargs)
        for processor in watching:
            processor.mark(output.sampled_token_ids)
        return output

    forward.shows_logits = True  # type: ignore[attr-defined]
    Sampler.forward = forward
