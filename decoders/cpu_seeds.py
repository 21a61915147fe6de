"""A correction of vLLM's model runner on CPUs: seeded requests whose prompts are computed in pieces."""

from functools import wraps
from typing import Any

import torch


def _discarded(runner: Any) -> dict[int, torch.Generator]:
    """Generators of the rows whose sampled tokens are thrown away: their prompts are not complete yet."""
    batch = runner.input_batch
    discarded = runner.discard_request_mask.np[: batch.num_reqs]
    return {row: generator for row, generator in batch.generators.items() if discarded[row]}


def register() -> None:
    """Let such rows leave their generators as they were.

    vLLM 0.32 turns them back by their offset, which a CPU's generators do not have: the engine dies of the
    first seeded request whose prompt is longer than a step, or shares one with others. Acts once a process.
    """
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    sample, book = CPUModelRunner._sample, CPUModelRunner._bookkeeping_sync
    if getattr(sample, "keeps_seeds", False):
        return

    @wraps(sample)
    def _sample(self: Any, *args: Any, **kwargs: Any) -> Any:
        states = {row: generator.get_state() for row, generator in _discarded(self).items()}
        output = sample(self, *args, **kwargs)
        for row, state in states.items():
            self.input_batch.generators[row].set_state(state)
        return output

    @wraps(book)
    def _bookkeeping_sync(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept = _discarded(self)
        for row in kept:
            del self.input_batch.generators[row]
        try:
            return book(self, *args, **kwargs)
        finally:
            self.input_batch.generators.update(kept)

    _sample.keeps_seeds = True  # type: ignore[attr-defined]
    CPUModelRunner._sample, CPUModelRunner._bookkeeping_sync = _sample, _bookkeeping_sync
