"""The frame of methods that choose by what an answer is worth."""

from pydantic import Field

from decoders.deployment import Deployment
from decoders.sequence.candidates.choosing import CandidateMethod
from decoders.sequence.candidates.rewards import Reward


class RewardedMethod(CandidateMethod):
    """Samples candidates and chooses among them by `reward`."""

    reward: Reward = Field(description="What an answer is worth: of a guide, of the model, or its verdict.")

    def check_deployment(self, deployment: Deployment) -> None:
        super().check_deployment(deployment)
        self.reward.check(deployment, self.engines(deployment)[0])

    def asks_in_other_words(self) -> bool:
        return self.reward.type == "verdict"
