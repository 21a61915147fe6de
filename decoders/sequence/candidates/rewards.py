"""What an answer is worth: a reward model's log-probability of it, the model's own, or the model's
verdict.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from decoders.deployment import Deployment
from decoders.errors import Refusal
from decoders.exact import Exact
from decoders.logits.guidance import Guidance
from decoders.logits.guided import GuideName, guides_salt
from decoders.logits.wire import KEY
from decoders.sequence.candidates.choosing import Candidate, Desk
from decoders.sequence.candidates.consensus import verdicts
from decoders.sequence.candidates.phrasing import Templates, phrasing_of

WHERE: Final = "decoding.sequence.reward"


class _Reward(Exact, ABC):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def check(self, deployment: Deployment, engine: str) -> None:
        """Raise Refusal for what `engine` does not have."""

    @abstractmethod
    async def of(self, pool: list[Candidate], desk: Desk, method: str) -> list[float]:
        """The reward of each candidate, in nats; of its likeliest sample where it has several."""


class GuideReward(_Reward):
    """An autoregressive reward model's: the sum of its log-probabilities over the answer's tokens, and its
    end.

    GenARM's reward (arXiv 2410.08193): log pi_r(y|x), of a guide of the engine, exactly as it judges.
    """

    type: Literal["guide"]
    guide: GuideName = Field(description="Name of the guide.")

    def check(self, deployment: Deployment, engine: str) -> None:
        guides = deployment.engines[engine].guides
        if self.guide not in guides:
            raise Refusal(
                f"Engine '{engine}' has no such guide; its guides: {', '.join(guides) or 'none'}.",
                f"{WHERE}.guide",
            )

    async def of(self, pool: list[Candidate], desk: Desk, method: str) -> list[float]:
        guidance = Guidance(alone=self.guide)
        salts = [salt for salt in (guides_salt(guidance), desk.job.cache_salt) if salt is not None]
        scores = await desk.score(
            desk.job.prompt_token_ids,
            [one.best.token_ids for one in pool],
            cache_salt="\n".join(salts),
            extra_args={KEY: guidance.to_wire()},
        )
        return [sum(row) for row in scores.logprobs]


class LikelihoodReward(_Reward):
    """The mean log-probability of the answer's tokens, as they were sampled."""

    type: Literal["logprob"]

    async def of(self, pool: list[Candidate], desk: Desk, method: str) -> list[float]:
        return [one.best.mean_logprob for one in pool]


class VerdictReward(_Reward):
    """log P(correct|x,y): what the model itself says when asked whether the answer is correct."""

    type: Literal["verdict"]
    templates: Templates = Field(default=Templates(), description="The words around question and answer.")

    async def of(self, pool: list[Candidate], desk: Desk, method: str) -> list[float]:
        phrasing = phrasing_of(desk.job.phrasing, method)
        return await verdicts([one.answer for one in pool], phrasing, desk, self.templates)


Reward = Annotated[GuideReward | LikelihoodReward | VerdictReward, Field(discriminator="type")]
