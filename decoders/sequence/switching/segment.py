"""A segment's state in the worker, and the windows of all segments on the device."""

from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from decoders.sequence.switching.rule import MAX_WINDOW, Rule

RING = 2 * MAX_WINDOW  # entropies kept of each segment: one more than a window are needed


@dataclass
class Segment:
    """`prompt` and `output` are vLLM's own lists, which grow; `slot` is the segment's line in the windows."""

    rule: Rule
    slot: int
    prompt: list[int]
    output: list[int]
    trace: dict[int, Tensor] = field(default_factory=dict)

    @property
    def answer(self) -> list[int]:
        """The answer's tokens so far, earlier segments included."""
        return [*self.prompt[len(self.prompt) - self.rule.emitted :], *self.output]

    @property
    def question(self) -> list[int]:
        """The request's own prompt."""
        return self.prompt[: len(self.prompt) - self.rule.emitted]


class Segments:
    """All segments of a worker, running, preempted or ended; the oldest that do not run make room.

    A segment that is preempted leaves the batch like one that has ended, and comes back under its key.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.known: OrderedDict[str, Segment] = OrderedDict()
        self.free = list(range(capacity))
        self.ring = torch.zeros(capacity, RING, dtype=torch.float64, device=device)

    def open(self, rule: Rule, prompt: list[int], output: list[int], running: set[str]) -> Segment:
        segment = self.known.get(rule.key)
        if segment is not None:
            segment.prompt, segment.output = prompt, output
            return segment
        if not self.free:
            self.close(next(key for key in self.known if key not in running))
        segment = self.known[rule.key] = Segment(rule, self.free.pop(), prompt, output)
        if rule.history:
            history = torch.tensor(rule.history, dtype=torch.float64)
            self.ring[segment.slot, : len(history)] = history.to(self.ring.device)
        return segment

    def close(self, key: str) -> Segment | None:
        segment = self.known.pop(key, None)
        if segment is not None:
            self.free.append(segment.slot)
        return segment

    def entropies(self, key: str, start: int, stop: int) -> list[float] | None:
        """Entropies in bits of the segment's tokens start to stop - 1; None if the segment is not known.

        A segment without a trace keeps its last MAX_WINDOW only.
        """
        segment = self.known.get(key)
        if segment is None:
            return None
        if segment.rule.trace:
            values = torch.stack([segment.trace[i] for i in range(start, stop)]) if start < stop else None
        else:
            at = torch.arange(start, stop, device=self.ring.device) + len(segment.rule.history)
            values = self.ring[segment.slot, at % RING]
        return [float(value) for value in values.tolist()] if values is not None else []
