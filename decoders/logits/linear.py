"""Weighted sums of logits: DExperts, proxy tuning, contrastive decoding."""

from typing import Annotated, Literal

from pydantic import Field

from decoders.logits.guidance import Guidance
from decoders.logits.guided import MOST_GUIDES, GuidedMethod, GuideName, Weight


class Linear(GuidedMethod):
    """Weighted logits: base + sum_k w_k guide_k, with any finite weights and an optional plausibility mask.

    DExperts (arXiv 2105.03023, eq. 1) and proxy tuning (arXiv 2401.08565): expert +1, anti-expert -1.
    Contrastive decoding (arXiv 2210.15097, eq. 2 and 3): amateur below 0 and alpha 0.1.
    """

    paper = "https://arxiv.org/abs/2105.03023"
    method: Literal["linear"]
    weights: Annotated[dict[GuideName, Weight], Field(min_length=1, max_length=MOST_GUIDES)] = Field(
        description="Weight of each guide's logits by name."
    )
    alpha: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Tokens below alpha times the base's largest probability are ruled out.",
    )

    def guidance(self) -> Guidance:
        return Guidance(
            weights=self.weights, alpha=self.alpha, gate=self.entropy_gate, logprobs=self.logprobs
        )

    def named(self) -> list[tuple[str, str]]:
        return [(name, "weights") for name in self.weights]
