"""Guidance by an inverse value model."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from decoders.logits.guidance import Guidance
from decoders.logits.guided import MOST_GUIDES, GuidedMethod, GuideName, Weight, named_once


class InverseValue(GuidedMethod):
    """Inverse value learning: add the logits that a value model has learnt to the base's, L_base + w L_value.

    arXiv 2410.21027. The value model's raw logits are added, not its log-probabilities; it was trained for
    weight 1.
    """

    paper = "https://arxiv.org/abs/2410.21027"
    method: Literal["inverse_value"]
    values: Annotated[
        list[GuideName], Field(min_length=1, max_length=MOST_GUIDES), AfterValidator(named_once)
    ] = Field(description="The value models' names among the guides.")
    weight: Weight = Field(default=1.0, description="What their logits are multiplied by.")

    def guidance(self) -> Guidance:
        weights = dict.fromkeys(self.values, self.weight)
        return Guidance(weights=weights, gate=self.entropy_gate, logprobs=self.logprobs)

    def named(self) -> list[tuple[str, str]]:
        return [(name, f"values.{i}") for i, name in enumerate(self.values)]
