"""Minimum Bayes risk: the answer that is most like all the others."""

import asyncio
from typing import Literal

from pydantic import Field

from decoders.sequence.candidates.choosing import Candidate, CandidateMethod, Desk
from decoders.sequence.candidates.likeness import Utility, likeness


class Mbr(CandidateMethod):
    """Minimum Bayes risk decoding: argmax_h mean_r u(h, r), samples being hypotheses and references.

    After arXiv 2108.04718. An answer that several samples give counts as often among the references. Nothing
    can be streamed before the choice is made.
    """

    paper = "https://arxiv.org/abs/2108.04718"
    method: Literal["mbr"]
    utility: Utility = Field(
        default="chrf", description="chrf: chrF2 between 0 and 1 (sacrebleu's); exact: 1 for the same answer."
    )

    async def rank(self, pool: list[Candidate], desk: Desk) -> list[int]:
        texts, counts = [one.answer for one in pool], [len(one.samples) for one in pool]
        # Off the event loop: the pairs of many long answers take a while.
        means = await asyncio.to_thread(expected_utilities, texts, counts, self.utility)
        for candidate, mean in zip(pool, means, strict=True):
            candidate.scores = {"expected_utility": mean}
        return sorted(range(len(pool)), key=lambda y: (-means[y], -pool[y].best.mean_logprob))


def expected_utilities(texts: list[str], counts: list[int], utility: Utility) -> list[float]:
    """The mean utility of each text against all texts, each counted so many times."""
    total = sum(counts)
    return [
        sum(count * likeness(utility, text, other) for other, count in zip(texts, counts, strict=True))
        / total
        for text in texts
    ]
