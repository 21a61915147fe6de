"""Equilibrium ranking: answers on which the model agrees with itself as generator and as discriminator."""

import asyncio
from dataclasses import asdict
from typing import ClassVar, Final, Literal

from pydantic import Field

from decoders.sequence.candidates.choosing import Candidate, CandidateMethod, Desk
from decoders.sequence.candidates.consensus import judge
from decoders.sequence.candidates.game import Rule, play, trajectory
from decoders.sequence.candidates.phrasing import Templates, end_of, phrasing_of

ITERATIONS: Final = 5000
MOST_ITERATIONS: Final = 100_000


class Equilibrium(CandidateMethod):
    """Equilibrium ranking (the Consensus Game): the answer on which generator and discriminator agree.

    Each candidate y is scored as an answer to the question under the cues `correct` and `incorrect`, and
    judged by the model; the two policies then play a signalling game by piKL no-regret learning (arXiv
    2310.09139, section 3). Ranked by `er_g` = pi_G(y|correct) or `er_d` = pi_D(correct|y) of the last
    iterate, or by a baseline from the same scores: `g` = P(y|x), `mi` = P(y|x,correct) P(correct|x,y), `sc`,
    `d` = the initial policies. Nothing can be streamed before the choice is made.
    """

    paper: ClassVar[str | None] = "https://arxiv.org/abs/2310.09139"

    method: Literal["equilibrium"]
    ranking: Rule = Field(default="er_d", description="The rule that ranks; the report holds all of them.")
    iterations: int = Field(
        default=ITERATIONS,
        ge=1,
        le=MOST_ITERATIONS,
        description="Rounds of the game; fewer change the answer.",
    )
    eta: float = Field(default=0.1, gt=0, le=1000, description="Learning rate of both players.")
    lam: float = Field(
        default=0.1, ge=0, le=1000, description="Pull of both players to their initial policies."
    )
    by_token: bool = Field(
        default=True,
        description="Take the mean log-probability of an answer's tokens for P(y|x,v) in place of their "
        "sum, so that "
        "long answers do not lose by length (ours).",
    )
    end: bool = Field(
        default=False,
        description="Score an answer's end too (the tokenizer's end-of-sequence token): tells an answer from "
        "a longer one that begins with it.",
    )
    templates: Templates = Field(default=Templates(), description="The words around question and answer.")
    trajectory: bool = Field(
        default=False,
        description="Report both players' policies after some of the rounds; takes effect with `report`.",
    )

    def asks_in_other_words(self) -> bool:
        return True

    async def rank(self, pool: list[Candidate], desk: Desk) -> list[int]:
        phrasing = phrasing_of(desk.job.phrasing, self.method)
        judged = await judge(
            [one.answer for one in pool],
            phrasing,
            desk,
            self.templates,
            by_token=self.by_token,
            end=end_of(phrasing) if self.end else None,
        )
        # Many rounds of many candidates take a second, in which the event loop is to serve others.
        ranking = await asyncio.to_thread(
            play, judged.evidence, eta=self.eta, lam=self.lam, iterations=self.iterations
        )
        for y, candidate in enumerate(pool):
            candidate.scores = ranking.scores(y)
        order = ranking.order(self.ranking)
        if self.trajectory:
            ranked = [judged.evidence[y] for y in order]
            policies = await asyncio.to_thread(
                trajectory, ranked, eta=self.eta, lam=self.lam, iterations=self.iterations
            )
            desk.job.report.layer(self.layer)["policies"] = asdict(policies)
        return order
