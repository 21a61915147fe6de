"""Best of n: the sampled answer with the highest reward."""

import math
from typing import Literal

from decoders.sequence.candidates.choosing import Candidate, Desk
from decoders.sequence.candidates.rewarded import RewardedMethod


class BestOfN(RewardedMethod):
    """Best of n: samples answers and returns the one with the highest reward.

    The report holds the bound log n - (n-1)/n on the KL divergence (nats) from the model's own distribution
    (arXiv 2401.01879). Nothing can be streamed before the choice is made.
    """

    paper = "https://arxiv.org/abs/2009.01325"
    method: Literal["best_of_n"]

    async def rank(self, pool: list[Candidate], desk: Desk) -> list[int]:
        n = self.candidates
        desk.job.report.layer(self.layer)["kl_bound"] = math.log(n) - (n - 1) / n
        rewards = await self.reward.of(pool, desk, self.method)
        for candidate, reward in zip(pool, rewards, strict=True):
            candidate.scores = {"reward": reward}
        return sorted(range(len(pool)), key=lambda y: -rewards[y])
