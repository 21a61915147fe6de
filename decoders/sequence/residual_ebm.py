"""Residual energy-based model: sampled answers resampled by a reward."""

import math
from random import Random
from typing import Literal

from pydantic import Field

from decoders.sequence.candidates.choosing import Candidate, Desk
from decoders.sequence.candidates.rewarded import RewardedMethod


class ResidualEbm(RewardedMethod):
    """Residual energy-based model: one of n samples, drawn with weights exp(-E), E = -reward / temperature.

    By self-normalised importance sampling the answer's distribution goes with growing n to P_LM(y|x)
    exp(-E(y)), normalised (arXiv 2004.11714). A request's seed seeds the draw too.
    Nothing can be streamed before the choice is made.
    """

    paper = "https://arxiv.org/abs/2004.11714"
    method: Literal["residual_ebm"]
    energy_temperature: float = Field(
        default=1.0, gt=0, le=1e6, description="T of E = -reward / T: the lower, the more the reward decides."
    )

    async def rank(self, pool: list[Candidate], desk: Desk) -> list[int]:
        rewards = await self.reward.of(pool, desk, self.method)
        logs = [
            reward / self.energy_temperature + math.log(len(candidate.samples))
            for candidate, reward in zip(pool, rewards, strict=True)
        ]
        total = _log_sum(logs)
        for candidate, reward, log in zip(pool, rewards, logs, strict=True):
            candidate.scores = {"reward": reward, "weight": math.exp(log - total)}
        return drawn_order(logs, Random(desk.job.params.seed))


def drawn_order(logs: list[float], draw: Random) -> list[int]:
    """Indices drawn one after the other without replacement, with weights exp(logs) (the Gumbel-max
    trick).
    """
    keys = [log - math.log(-math.log(_open(draw))) for log in logs]
    return sorted(range(len(logs)), key=lambda y: -keys[y])


def _open(draw: Random) -> float:
    """A number strictly between 0 and 1."""
    while not 0 < (value := draw.random()) < 1:
        pass
    return value


def _log_sum(logs: list[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(log - top) for log in logs))
