"""A vLLM logits processor that makes an engine write given tokens, to read their log-probabilities.

vLLM reports raw log-probabilities, taken before processors act: those of the model itself.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

TOKENS = "forced_tokens"  # of `SamplingParams.extra_args`
NAME = "deploy.studies.forcing:Forced"


class Forced(LogitsProcessor):
    """For an engine argument `logits_processors`."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.rows: dict[int, tuple[list[int], list[int]]] = {}  # tokens to write, tokens written

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self.rows, batch_update, _row)

    def apply(self, logits: Tensor) -> Tensor:
        for row, (wanted, written) in self.rows.items():
            if len(written) < len(wanted):
                logits[row] = -torch.inf
                logits[row, wanted[len(written)]] = 0.0
        return logits


def _row(params: SamplingParams, _: Any, output: list[int]) -> tuple[list[int], list[int]] | None:
    wanted = (params.extra_args or {}).get(TOKENS)
    return (list(wanted), output) if wanted else None
