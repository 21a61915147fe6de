"""Reward-guided generation with autoregressive reward models."""

from typing import Annotated, Literal

from pydantic import Field

from decoders.logits.guidance import Guidance
from decoders.logits.guided import MOST_GUIDES, GuidedMethod, GuideName, Weight


class GenArm(GuidedMethod):
    """GenARM: sample from the base times each reward model's next-token distribution, to a power.

    log pi(y_t) = -log Z + log pi_base(y_t|.) + sum_k w_k log pi_k(y_t|.) (arXiv 2410.08193, eq. 8); several
    guides are the paper's multi-objective case. Temperature and top-p apply to the result.
    """

    paper = "https://arxiv.org/abs/2410.08193"
    method: Literal["genarm"]
    weights: Annotated[dict[GuideName, Weight], Field(min_length=1, max_length=MOST_GUIDES)] = Field(
        description="Weight 1/beta of each guide by name; 0 leaves it out."
    )

    def guidance(self) -> Guidance:
        return Guidance(weights=self.weights, gate=self.entropy_gate, logprobs=self.logprobs)

    def named(self) -> list[tuple[str, str]]:
        return [(name, "weights") for name in self.weights]
