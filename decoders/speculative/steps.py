"""The engine's steps as the governor and the drafter see them: hooks around vLLM's model runner."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from vllm.v1.structured_output.utils import strip_speculative_padding

from decoders.speculative.adaptive_draft import AdaptiveDrafter
from decoders.speculative.drafter import CatchingUp
from decoders.speculative.governor import Governor
from decoders.speculative.settings import Speculation


class Idling(Enum):
    """What a drafter must do in a step whose drafts nobody wants."""

    NOTHING = "nothing"  # it has no state (ngram), or catches up later (draft models)
    DRAFT = "draft"  # it must see every token (suffix): its drafts are thrown away
    READ = "read"  # its state is made from hidden states that are gone later (eagle): one pass, no drafts


IDLING = {"suffix": Idling.DRAFT, "eagle": Idling.READ, "eagle3": Idling.READ}


@dataclass
class Step:
    """One step that runs or has just run. began, ended: seconds."""

    began: float
    scheduled: dict[str, int]  # tokens by request id
    drafts: dict[str, list[int]]  # drafted tokens that it verifies, by request id
    decoding: bool  # no row computes a prompt
    drafter_saw: bool = False
    asked: bool = False
    drafting: bool = False
    tokens: int = 0

    @property
    def rows(self) -> int:
        return len(self.scheduled)


class Steps:
    """Replaces four methods of one runner by its own, which call them.

    A step's time goes from its beginning to the next one's, scheduling included. Between two steps that share
    no request the engine may have been idle; such a step is not measured.
    """

    def __init__(self, settings: Speculation, runner: Any, clock: Any = time.perf_counter) -> None:
        self.method, self.runner, self.clock = settings.method, runner, clock
        self.governor = Governor() if settings.governor else None
        self.idling = IDLING.get(settings.method, Idling.NOTHING)
        self.step: Step | None = None
        self.drafting = False  # whether the step before this one drafted
        self.drafted = self.accepted = 0  # tokens
        self._execute, self._sample = runner.execute_model, runner.sample_tokens
        self._propose, self._draw = runner.propose_draft_token_ids, runner._sample
        runner.execute_model, runner.sample_tokens = self.execute_model, self.sample_tokens
        runner.propose_draft_token_ids, runner._sample = self.propose, self.draw

    # ---- in place of the runner's methods --------------------------------------------------------------

    def execute_model(self, scheduler_output: Any, *args: Any, **options: Any) -> Any:
        now = self.clock()
        if self.step is not None and self.governor is not None:
            self._measure(self.step, scheduler_output, now)
        self.step = None
        if scheduler_output.total_num_scheduled_tokens:
            drafts = scheduler_output.scheduled_spec_decode_tokens
            lengths = scheduler_output.num_scheduled_tokens
            decoding = all(count == 1 + len(drafts.get(name, ())) for name, count in lengths.items())
            verified = {name: strip_speculative_padding(tokens) for name, tokens in drafts.items()}
            self.step = Step(now, dict(lengths), verified, decoding)
        return self._execute(scheduler_output, *args, **options)

    def propose(self, scheduler_output: Any, *args: Any, **options: Any) -> Any:
        step = self.step
        if step is None:  # a dry run of vLLM's
            return self._propose(scheduler_output, *args, **options)
        step.asked = True
        self._show_drafter(step)
        step.drafting = self.governor is None or self.governor.drafts(step.rows)
        if step.drafting:
            drafts = self._propose(scheduler_output, *args, **options)
            self._pin_constrained(drafts)
            return drafts
        if self.idling is Idling.DRAFT:
            self._propose(scheduler_output, *args, **options)
        elif self.idling is Idling.READ:
            with _without_drafts(scheduler_output):
                return self._propose(scheduler_output, *args, **options)
        return [[] for _ in range(self.runner.input_batch.num_reqs)]

    def draw(self, logits: Any, metadata: Any) -> Any:
        """A step that verifies nothing is sampled as vLLM samples without speculation, which is faster."""
        verifies = metadata is not None and metadata.max_spec_len > 0
        return self._draw(logits, metadata if verifies else None)

    def sample_tokens(self, *args: Any, **options: Any) -> Any:
        output = self._sample(*args, **options)
        step = self.step
        if step is None or output is None or not hasattr(output, "sampled_token_ids"):
            return output
        if not step.drafter_saw:
            self._show_drafter(step)
        step.tokens = sum(len(tokens) for tokens in output.sampled_token_ids)
        drafted = accepted = 0
        for name, draft in step.drafts.items():
            sampled = output.sampled_token_ids[output.req_id_to_index[name]]
            drafted += len(draft) if sampled else 0
            accepted += max(len(sampled) - 1, 0)
        self.drafted, self.accepted = self.drafted + drafted, self.accepted + accepted
        if self.drafting and isinstance(self.runner.drafter, AdaptiveDrafter):
            self.runner.drafter.rule.observe(drafted, accepted)
        self.drafting = step.drafting
        return output

    # ---- what they need --------------------------------------------------------------------------------

    def _show_drafter(self, step: Step) -> None:
        step.drafter_saw = True
        if isinstance(self.runner.drafter, CatchingUp):
            self.runner.drafter.begin_step(step.scheduled)

    def _measure(self, step: Step, following: Any, now: float) -> None:
        assert self.governor is not None
        if not step.asked:
            self.governor.interrupt()
        elif any(name in step.scheduled for name in following.num_scheduled_tokens):
            self.governor.observe(step.rows, step.tokens, now - step.began, step.decoding)

    def _pin_constrained(self, drafts: Any) -> None:
        """Where a grammar may cut a draft short, say of the tokens drawn that they were certain.

        The grammar cuts a draft at the first token that it forbids, so whether a token is verified depends on
        which one was drawn, and rejection sampling by its distribution would be off. Taken as certain, a
        draft is verified exactly whatever it was drawn from.
        """
        probabilities = self.runner._draft_probs
        if probabilities is None:
            return
        batch = self.runner.input_batch
        for row, name in enumerate(batch.req_ids):
            params = self.runner.requests[name].sampling_params
            if params is None or params.structured_outputs is None:
                continue
            tokens = torch.as_tensor(drafts[row], device=probabilities.device, dtype=torch.int64)
            probabilities[row].zero_()
            probabilities[row, : len(tokens)].scatter_(1, tokens[:, None], 1.0)

    def summary(self) -> dict[str, Any]:
        """Counts since the start, what the governor has measured, and its decisions since the last call."""
        summary: dict[str, Any] = {"method": self.method, "drafted": self.drafted, "accepted": self.accepted}
        if isinstance(self.runner.drafter, AdaptiveDrafter):
            summary["stop"] = self.runner.drafter.rule.stop
        governor = self.governor
        if governor is None:
            return summary
        loads = {}
        for load in governor.loads.values():
            with_drafts, without = governor.rates(load)
            loads[load.rows] = {"drafting": load.drafting, "with_drafts": with_drafts, "without": without}
        return {
            **summary,
            "drafting": self.drafting,
            "switches": governor.switches,
            "steps": dict(governor.counts),
            "loads": loads,
            "decisions": [vars(decision) for decision in governor.take_decisions()],
        }


@contextmanager
def _without_drafts(scheduler_output: Any) -> Iterator[None]:
    wanted = scheduler_output.num_spec_tokens_to_schedule
    scheduler_output.num_spec_tokens_to_schedule = 0
    try:
        yield
    finally:
        scheduler_output.num_spec_tokens_to_schedule = wanted
