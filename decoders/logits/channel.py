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
from decoders.logits.step import Done, StepPlan

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
    profiling and graph capture include them. bound: whether the model has found this channel.
    """

    names: tuple[str, ...]
    rows: dict[int, GuidedRow] = field(default_factory=dict)
    active: tuple[str, ...] = ()
    bound: bool = False
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)  # a choice each, by report
    sampling: bool = False  # whether the next compute_logits() is the one whose rows are the batch's
    _plans: dict[str, StepPlan | None] = field(default_factory=dict)
    _pending: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        self.active = self.names

    def begin_step(self, changed: bool) -> None:
        self.sampling, self._pending = True, None
        if changed:
            self._plans.clear()
        used = {name for row in self.rows.values() for name in row.guidance.guides()}
        self.active = tuple(name for name in self.names if name in used)

    def guides_rows(self) -> bool:
        """Whether any row of this step is to be changed, be it by a mask alone."""
        return any(not row.guidance.does_nothing() for row in self.rows.values())

    def fuse(self, logits: Tensor, guides: Mapping[str, Tensor]) -> None:
        """Guide the rows that report guided logprobs, in place, and prepare the others' change for `settle`.

        logits: the base's, `[rows, vocab]` float32, before anything restricts them: gates, masks and
        divergences are of the model's own distribution.
        """
        if (plan := self._plan("base", logits.device)) is not None:
            fused = logits.clone()
            done = plan.apply(fused, guides)
            rows = torch.cat([part[0] for part in done])
            before = logits[rows]
            # Where the base gives no chance the difference of infinities is none; settle leaves it so.
            change = torch.where(before == -torch.inf, 0.0, fused[rows] - before)
            self._pending = rows, change
            self._book(done)
        if (plan := self._plan("guided", logits.device)) is not None:
            self._book(plan.apply(logits, guides))

    def settle(self, logits: Tensor) -> None:
        """Change the rows that report the base's logprobs, now that vLLM has taken them; -inf stays so."""
        if self._pending is not None:
            rows, change = self._pending
            logits.index_add_(0, rows, change)

    def _plan(self, logprobs: str, device: torch.device) -> StepPlan | None:
        if logprobs not in self._plans:
            rows = {
                index: row.guidance
                for index, row in self.rows.items()
                if row.guidance.logprobs == logprobs and not row.guidance.does_nothing()
            }
            self._plans[logprobs] = StepPlan(rows, device) if rows else None
        return self._plans[logprobs]

    def _book(self, done: list[Done]) -> None:
        if all(row.report is None for row in self.rows.values()):
            return
        for rows, opened, alpha in done:
            for i, index in enumerate(rows.tolist()):
                row = self.rows[index]
                if row.report is not None:
                    self._outcome(row.report, row.output).add(
                        len(row.output),
                        bool(opened[i]),
                        {}
                        if alpha is None
                        else dict(zip(row.guidance.experts, alpha[:, i].tolist(), strict=True)),
                    )

    def _outcome(self, report: str, output: list[int]) -> Outcome:
        if report not in self.outcomes and len(self.outcomes) >= MOST_REPORTS:
            self._forget_one()
        choices = self.outcomes.setdefault(report, [])
        found = next((choice for choice in choices if choice.output is output), None)
        if found is None:
            found = Outcome(output)
            choices.append(found)
        return found

    def _forget_one(self) -> None:
        """The oldest that does not run: what runs will be asked for."""
        running = {row.report for row in self.rows.values()}
        if (oldest := next((key for key in self.outcomes if key not in running), None)) is not None:
            self.outcomes.pop(oldest)


def channel(config: VllmConfig) -> Channel | None:
    """The channel of this worker's engine; None for an engine without guides."""
    names = (config.additional_config or {}).get(GUIDES)
    if not names:
        return None
    return _channels.setdefault(config.instance_id, Channel(tuple(names)))
