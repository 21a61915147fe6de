"""Tells the composite model which rows are guided, and guides those that report the base's logprobs."""

from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from decoders.logits.channel import GuidedRow, channel
from decoders.logits.guidance import Guidance
from decoders.logits.wire import REPORT


class GuideProcessor(LogitsProcessor):
    """vLLM's V1 hook before each step: row -> guidance.

    Rows that report guided logprobs are guided in the model's `compute_logits`, before vLLM takes raw
    logprobs from the logits and before grammars, penalties and biases act on them. The others are guided
    here, after raw logprobs were taken; a token that a grammar has ruled out stays so.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        found = channel(vllm_config)
        if found is None:
            raise ValueError("the guides' logits processor was given to an engine without guides")
        self.channel = found

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        Guidance.from_wire(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        changed = process_dict_updates(self.channel.rows, batch_update, _row)
        if not self.channel.bound:
            raise RuntimeError(
                "the model and its logits processor do not share a channel: guides would be ignored"
            )
        self.channel.begin_step(changed or batch_update is not None)

    def apply(self, logits: Tensor) -> Tensor:
        self.channel.settle(logits)
        return logits


def _row(params: SamplingParams, _prompt: Any, output: list[int]) -> GuidedRow | None:
    guidance = Guidance.from_wire(params.extra_args)
    if guidance is None:
        return None
    return GuidedRow(guidance, output, (params.extra_args or {}).get(REPORT))
