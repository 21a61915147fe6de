"""The guidances of one step's rows, and the arithmetic on their logits. Pure: it knows no vLLM."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decoders.logits.guidance import Guidance
from kernels import ops


@dataclass(frozen=True)
class _Sum:
    rows: Tensor  # [n]
    guides: tuple[str, ...]
    weights: Tensor  # [guides, n]
    alpha: Tensor | None  # [n]
    gate: Tensor | None  # [n]


@dataclass(frozen=True)
class _Fusion:
    rows: Tensor  # [n]
    experts: tuple[str, ...]
    small: str
    grid: tuple[float, ...]
    gate: Tensor | None  # [n]


def _gates(guidances: Sequence[Guidance], device: torch.device) -> Tensor | None:
    if all(one.gate is None for one in guidances):
        return None
    return torch.tensor([-math.inf if one.gate is None else one.gate for one in guidances], device=device)


class StepPlan:
    """The guidances of some rows of a batch, gathered into as few operator calls as there are kinds of them.

    Args:
        rows: guidance by row of the logits.
        device: where the logits lie.
    """

    def __init__(self, rows: Mapping[int, Guidance], device: torch.device) -> None:
        self.guides = tuple(sorted({name for one in rows.values() for name in one.guides()}))
        self._sum = self._gather_sum({row: one for row, one in rows.items() if not one.experts}, device)
        kinds: dict[tuple[Any, ...], dict[int, Guidance]] = {}
        for row, one in rows.items():
            if one.experts:
                kinds.setdefault((tuple(one.experts), one.small, tuple(one.grid)), {})[row] = one
        self._fusions = [
            _Fusion(
                torch.tensor(list(some), device=device),
                experts,
                small,
                grid,
                _gates(list(some.values()), device),
            )
            for (experts, small, grid), some in kinds.items()
        ]

    @staticmethod
    def _gather_sum(rows: Mapping[int, Guidance], device: torch.device) -> _Sum | None:
        if not rows:
            return None
        ones = list(rows.values())
        names = tuple(sorted({name for one in ones for name in one.guides()}))
        weights = torch.tensor(
            [[one.weights.get(name, 0.0) for one in ones] for name in names], device=device
        )
        masked = any(one.alpha > 0 for one in ones)
        alpha = torch.tensor([one.alpha for one in ones], device=device) if masked else None
        return _Sum(torch.tensor(list(rows), device=device), names, weights, alpha, _gates(ones, device))

    def apply(
        self, logits: Tensor, guides: Mapping[str, Tensor]
    ) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Change `logits [rows, vocab]` in place; guides' logits by name, in the same rows.

        Returns, for each operator call, (rows `[n]`, opened bool `[n]`, alpha `[experts, n]` of dynamic
        fusion or None).
        """
        done: list[tuple[Tensor, Tensor, Tensor | None]] = []
        if self._sum is not None and self._sum.guides:
            part = self._sum
            terms = [guides[name] for name in part.guides]
            opened = ops.fuse_logits_(
                logits, terms, part.weights, alpha=part.alpha, gate=part.gate, rows=part.rows
            )
            done.append((part.rows, opened, None))
        for fusion in self._fusions:
            experts = [guides[name] for name in fusion.experts]
            small, grid = guides[fusion.small], fusion.grid or None
            alpha = ops.dynamic_fusion_(logits, experts, small, grid, gate=fusion.gate, rows=fusion.rows)
            done.append((fusion.rows, (alpha != 0).any(0), alpha))
        return done
