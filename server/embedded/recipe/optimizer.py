"""Muon for the matrices, AdamW for embedding and norms, and one schedule for both."""

from typing import Final

import torch
from torch import Tensor, nn

NEWTON_SCHULZ: Final = (3.4445, -4.775, 2.0315)
NEWTON_SCHULZ_STEPS: Final = 5
MOMENTUM: Final = 0.95
WEIGHT_DECAY: Final = 0.01
ADAMW_RMS: Final = 0.2
LEAST_RATE: Final = 0.03
CLIP_NORM: Final = 1.0


def orthogonalise(matrices: Tensor) -> Tensor:
    """Newton-Schulz iteration, in bfloat16, towards orthogonal matrices [matrices, rows, columns]."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = (x.mT if tall else x).float()
    return orthogonal


class Muon:
    """Momentum orthogonalised by Newton-Schulz (Keller Jordan, 2024), all matrices of one shape in one batch.

    The update's root mean square is matched to AdamW's, 0.2 sqrt(longest side), as in Moonlight
    (arXiv 2502.16982), so that learning rates compare.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.groups: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            self.groups.setdefault(parameter.shape, []).append(parameter)
        self.momenta = {shape: torch.zeros(len(group), *shape) for shape, group in self.groups.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update the parameters from their gradients at learning rate `rate`."""
        for shape, group in self.groups.items():
            gradient = torch.stack([parameter.grad for parameter in group if parameter.grad is not None])
            momentum = self.momenta[shape].lerp_(gradient, 1 - MOMENTUM)
            update = orthogonalise(gradient.lerp_(momentum, MOMENTUM))
            update *= -ADAMW_RMS * rate * max(shape) ** 0.5
            for parameter, change in zip(group, update, strict=True):
                parameter.mul_(1 - rate * WEIGHT_DECAY).add_(change)


class Optimizer:
    """Both optimizers over one model.

    matrix_rate: Muon's peak learning rate, for the layers' matrices.
    other_rate: AdamW's, for the embedding and the norms.
    """

    def __init__(self, model: nn.Module, matrix_rate: float, other_rate: float) -> None:
        named = list(model.named_parameters())
        self.model = model
        self.matrix_rate, self.other_rate = matrix_rate, other_rate
        self.muon = Muon([p for name, p in named if p.dim() == 2 and "embed" not in name])
        others = [p for name, p in named if p.dim() != 2 or "embed" in name]
        self.adamw = torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)

    def step(self, factor: float) -> None:
        """Clip the gradients, update at `factor` times the peak rates, and clear the gradients."""
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.muon.step(self.matrix_rate * factor)
        for group in self.adamw.param_groups:
            group["lr"] = self.other_rate * factor
        self.adamw.step()
        self.model.zero_grad(set_to_none=True)


def rate_factor(step: int, steps: int, warmup: int, decay: float) -> float:
    """Linear warm-up over `warmup` steps, then constant, then linear decay over the last share `decay`."""
    rising = min(1.0, (step + 1) / warmup)
    falling = min(1.0, max(LEAST_RATE, (1 - step / steps) / decay))
    return rising * falling
