"""A correction of vLLM's rejection sampler on CPUs."""

from typing import Any

import torch
from torch import Tensor

KERNEL = "vllm.v1.sample.rejection_sampler.expand_kernel"


def expand(
    output: Tensor, values: Tensor, bounds: Tensor, replaced: Any, replacement: Any, most: Any = None
) -> None:
    """Repeat each row's value for each of its drafted tokens, into `output` `[tokens]`.

    values: `[rows]`. bounds: `[rows]`, the rows' drafted tokens summed up. A value equal to `replaced`
    becomes `replacement`. most: unused.
    """
    values = torch.where(values == replaced, torch.full_like(values, replacement), values)
    counts = torch.diff(bounds, prepend=bounds.new_zeros(1))
    output.copy_(torch.repeat_interleave(values, counts))


def register() -> None:
    """Replace vLLM's CPU kernel of this name.

    The one of vLLM 0.32 writes to a copy of the output, rounded to integers, and leaves the output itself as
    it was: temperature, top_k and top_p of drafted tokens are then whatever was in memory, and sampled
    answers have another distribution than the model's (`tests/decoders/speculative/test_sampled.py`).
    """
    from vllm.triton_utils.dispatcher import register_kernels

    register_kernels({KERNEL: expand})
