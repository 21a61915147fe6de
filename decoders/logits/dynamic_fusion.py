"""Weak-to-strong transfer with a weight chosen at every step."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from decoders.logits.guidance import Guidance
from decoders.logits.guided import MOST_GUIDES, GuidedMethod, GuideName, named_once


class DynamicFusion(GuidedMethod):
    """Dynamic logit fusion: add what small experts learnt over their small base, as each step asks for it.

    L~ = L_base + sum_k a_k (L_expert_k - L_small); each step and row takes from `grid` the one non-zero a_k
    for which the shift of the base's distribution comes nearest to the experts' own, sum_k (KL(P~||P) -
    KL(Q_k||Q))^2 (arXiv 2406.15480, eq. 6 and 8; the grid for several experts is ours).
    """

    paper = "https://arxiv.org/abs/2406.15480"
    method: Literal["dynamic_fusion"]
    experts: Annotated[
        list[GuideName], Field(min_length=1, max_length=MOST_GUIDES - 1), AfterValidator(named_once)
    ] = Field(description="The fine-tuned small models' names among the guides.")
    small: GuideName = Field(description="The small model that they were tuned from, among the guides.")
    grid: Annotated[list[Annotated[float, Field(ge=-100, le=100)]], Field(min_length=1, max_length=64)] = (
        Field(default=[i / 10 for i in range(21)], description="The values that a may take.")
    )

    def guidance(self) -> Guidance:
        return Guidance(
            experts=self.experts,
            small=self.small,
            grid=self.grid,
            gate=self.entropy_gate,
            logprobs=self.logprobs,
        )

    def named(self) -> list[tuple[str, str]]:
        experts = [(name, f"experts.{i}") for i, name in enumerate(self.experts)]
        return [*experts, (self.small, "small")]
