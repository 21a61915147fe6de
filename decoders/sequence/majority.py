"""Majority vote over sampled answers (self-consistency)."""

from contextlib import aclosing
from typing import Literal

from pydantic import Field

from decoders.sequence.candidates.answers import grouped
from decoders.sequence.candidates.choosing import Candidate, CandidateMethod, Desk
from decoders.sequence.candidates.sampling import Sample, draw


class Majority(CandidateMethod):
    """Majority vote (self-consistency): the answer that most samples give; the likeliest one among equals.

    Answers are compared as `extract` finds them; samples without one abstain. Among equals the mean
    log-probability of their samples (by token) decides, and the answer returned is the likeliest sample that
    gives it. When no sample still to come can change which answer wins, sampling stops, and the answer is
    streamed at once (with n > 1 all samples are waited for).
    """

    paper = "https://arxiv.org/abs/2203.11171"
    method: Literal["majority"]
    early: bool = Field(default=True, description="Stop sampling once the winner is settled.")

    async def sample(self, desk: Desk) -> list[Sample]:
        found: list[Sample] = []
        samples = draw(desk.job, desk.engine, desk.name, self.candidates, f"{desk.job.id}/sample")
        async with aclosing(samples) as drawn:
            async for one in drawn:
                found.append(one)
                answers = [self.extract.answer(each.text) for each in found]
                if self.early and desk.job.choices == 1 and settled(answers, self.candidates - len(found)):
                    break
        desk.job.report.layer(self.layer)["completed"] = len(found)
        return sorted(found, key=lambda one: one.index)

    async def rank(self, pool: list[Candidate], desk: Desk) -> list[int]:
        for candidate in pool:
            likely = [one.mean_logprob for one in candidate.samples]
            candidate.scores = {
                "votes": float(len(candidate.samples)),
                "mean_logprob": sum(likely) / len(likely),
            }
        keys = [(one.scores["votes"], one.scores["mean_logprob"]) for one in pool]
        return sorted(range(len(pool)), key=lambda y: keys[y], reverse=True)


def settled(answers: list[str | None], coming: int) -> bool:
    """Whether the most frequent answer stays ahead of every other, whatever `coming` more samples say."""
    counts = sorted((len(group) for group in grouped(answers)), reverse=True)
    if not counts:
        return False
    return counts[0] - (counts[1] if len(counts) > 1 else 0) > coming
