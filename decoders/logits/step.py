"""The guidances of one step's rows, and the arithmetic on their logits. Pure: it knows no vLLM."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from decoders.logits.guidance import Guidance
from kernels import ops

MOST_GUIDES = 16  # of an operator call
IMPLAUSIBLE = 1e4  # nats below the least plausible token

# What an operator call did: rows [n], whether their gates were open [n], dynamic fusion's alpha [experts, n].
Done: TypeAlias = tuple[Tensor, Tensor, Tensor | None]


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


@dataclass(frozen=True)
class _Alone:
    rows: Tensor  # [n]
    guide: str


def _gates(guidances: Sequence[Guidance], device: torch.device) -> Tensor | None:
    if all(one.gate is None for one in guidances):
        return None
    return torch.tensor([-math.inf if one.gate is None else one.gate for one in guidances], device=device)


def _of_few_guides(rows: Mapping[int, Guidance]) -> list[dict[int, Guidance]]:
    """The rows in groups of no more guides than an operator call takes."""
    groups: list[tuple[set[str], dict[int, Guidance]]] = []
    for row, one in rows.items():
        mine = set(one.guides())
        for names, group in groups:
            if len(names | mine) <= MOST_GUIDES:
                names |= mine
                group[row] = one
                break
        else:
            groups.append((mine, {row: one}))
    return [group for _, group in groups]


def _last_resort(fused: Tensor, base: Tensor) -> Tensor:
    """Implausible tokens as finite, but with probability 0 beside any plausible one.

    A grammar may allow implausible tokens only; among those the base's own preference then decides.
    """
    gone = fused == -math.inf
    least = fused.masked_fill(gone, math.inf).amin(-1, keepdim=True).nan_to_num(posinf=0.0)
    behind = base - base.amax(-1, keepdim=True)
    return torch.where(gone & (base > -math.inf), least - IMPLAUSIBLE + behind, fused)


class StepPlan:
    """The guidances of some rows of a batch, gathered into as few operator calls as there are kinds of them.

    Args:
        rows: guidance by row of the logits.
        device: where the logits lie.
    """

    def __init__(self, rows: Mapping[int, Guidance], device: torch.device) -> None:
        self.guides = tuple(sorted({name for one in rows.values() for name in one.guides()}))
        sums = {row: one for row, one in rows.items() if not one.experts and one.alone is None}
        self._sums = [self._gather_sum(some, device) for some in _of_few_guides(sums)]
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

        lone: dict[str, list[int]] = {}
        for row, one in rows.items():
            if one.alone is not None:
                lone.setdefault(one.alone, []).append(row)
        self._alone = [_Alone(torch.tensor(some, device=device), guide) for guide, some in lone.items()]

    @staticmethod
    def _gather_sum(rows: Mapping[int, Guidance], device: torch.device) -> _Sum:
        ones = list(rows.values())
        names = tuple(sorted({name for one in ones for name in one.guides()}))
        weights = torch.tensor(
            [[one.weights.get(name, 0.0) for one in ones] for name in names or ("",)], device=device
        )
        masked = any(one.alpha > 0 for one in ones)
        alpha = torch.tensor([one.alpha for one in ones], device=device) if masked else None
        return _Sum(torch.tensor(list(rows), device=device), names, weights, alpha, _gates(ones, device))

    def apply(self, logits: Tensor, guides: Mapping[str, Tensor]) -> list[Done]:
        """Change `logits [rows, vocab]` in place; guides' logits by name, in the same rows."""
        done: list[Done] = []
        for part in self._sums:
            # A plausibility mask needs no guide; the operator does, and reads none of weight zero.
            terms = [guides[name] for name in part.guides] or [logits]
            masked = part.rows[part.alpha > 0] if part.alpha is not None else None
            before = logits[masked] if masked is not None else None
            opened = ops.fuse_logits_(
                logits, terms, part.weights, alpha=part.alpha, gate=part.gate, rows=part.rows
            )
            if masked is not None and before is not None:
                logits[masked] = _last_resort(logits[masked], before)
            done.append((part.rows, opened, None))
        for fusion in self._fusions:
            experts = [guides[name] for name in fusion.experts]
            small, grid = guides[fusion.small], fusion.grid or None
            opened = torch.ones_like(fusion.rows, dtype=torch.bool)
            if fusion.gate is not None:
                opened = ops.entropy(logits, fusion.rows) > fusion.gate
            alpha = ops.dynamic_fusion_(logits, experts, small, grid, gate=fusion.gate, rows=fusion.rows)
            done.append((fusion.rows, opened, alpha))
        for lone in self._alone:
            logits[lone.rows] = guides[lone.guide][lone.rows].to(logits.dtype)
            done.append((lone.rows, torch.ones_like(lone.rows, dtype=torch.bool), None))
        return done
