"""What the composite model and the logits processor of one worker share.

Both are built from the same VllmConfig in the same process; its `instance_id` finds the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from vllm.config import VllmConfig

from decoders.logits.guidance import Guidance, Outcome
from decoders.logits.step import StepPlan

MOST_REPORTS = 1024  # kept for requests that have not asked yet; one that was aborted never does
GUIDES = "decant_guides"  # in VllmConfig.additional_config: the guides' paths by name, in order

_channels: "WeakValueDictionary[str, Channel]" = WeakValueDictionary()


class GuidedRow(NamedTuple):
    """A row's guidance; `output` is vLLM's own growing list of the tokens sampled so far.

    report: the key under which what was done is kept for the request's report; None if none was asked for.
    """

    guidance: Guidance
    output: list[int]
    report: str | None


@dataclass(eq=False)
class Channel:
    """names: the engine's guides, in order. rows: the guided rows of the batch, as vLLM numbers them.

    active: the guides whose states this step computes. Until the first real step these are all, so that
    profiling and graph capture include them.
    """

    names: tuple[str, ...]
    rows: "dict[int, GuidedRow]" = field(default_factory=dict)
    active: tuple[str, ...] = ()
    logits: dict[str, Tensor] = field(default_factory=dict)
    outcomes: dict[str, dict[int, Outcome]] = field(default_factory=dict)  # by report and choice
    sampling: bool = False  # whether the next compute_logits() is the one whose rows are the batch's
    _plans: "dict[str, StepPlan | None]" = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.active = self.names

    def begin_step(self, changed: bool) -> None:
        self.sampling, self.logits = True, {}
        if changed:
            self._plans.clear()
        used = {name for row in self.rows.values() for name in row.guidance.guides()}
        self.active = tuple(name for name in self.names if name in used)

    def plan(self, logprobs: str, device: torch.device) -> StepPlan | None:
        """The plan for the rows that report these logprobs; None if there are no such rows."""
        if logprobs not in self._plans:
            rows = {
                index: row.guidance
                for index, row in self.rows.items()
                if row.guidance.logprobs == logprobs and row.guidance.guides()
            }
            self._plans[logprobs] = StepPlan(rows, device) if rows else None
        return self._plans[logprobs]

    def fuse(self, logprobs: str, logits: Tensor, guides: Mapping[str, Tensor]) -> None:
        """Guide the rows that report these logprobs, in place, and book what was done."""
        plan = self.plan(logprobs, logits.device)
        if plan is None:
            return
        for rows, opened, alpha in plan.apply(logits, guides):
            self._book(rows, opened, alpha)

    def _book(self, rows: Tensor, opened: Tensor, alpha: Tensor | None) -> None:
        if all(row.report is None for row in self.rows.values()):
            return
        for i, index in enumerate(rows.tolist()):
            row = self.rows[index]
            if row.report is None:
                continue
            position = len(row.output)
            if row.report not in self.outcomes and len(self.outcomes) >= MOST_REPORTS:
                self.outcomes.pop(next(iter(self.outcomes)))
            outcome = self.outcomes.setdefault(row.report, {}).setdefault(id(row.output), Outcome())
            outcome.opened[position] = bool(opened[i])
            if alpha is not None:
                for k, name in enumerate(row.guidance.experts):
                    outcome.alphas.setdefault(name, {})[position] = round(float(alpha[k, i]), 4)


def channel(config: VllmConfig) -> Channel | None:
    """The channel of this worker's engine; None for an engine without guides."""
    names = (config.additional_config or {}).get(GUIDES)
    if not names:
        return None
    return _channels.setdefault(config.instance_id, Channel(tuple(names)))
