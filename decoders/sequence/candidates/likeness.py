"""How alike two texts are, in [0, 1]: chrF (Popovic 2015, W15-3049) as sacrebleu computes it, or equality."""

from functools import cache
from typing import Any, Literal

from decoders.sequence.candidates.answers import normalised

Utility = Literal["chrf", "exact"]


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def likeness(utility: Utility, hypothesis: str, reference: str) -> float:
    """chrf: chrF2 of character 1- to 6-grams, divided by 100. exact: 1 where the texts are equal after
    `normalised`.
    """
    if utility == "exact":
        return float(normalised(hypothesis) == normalised(reference))
    if not hypothesis.strip() or not reference.strip():
        return float(hypothesis.strip() == reference.strip())
    return float(_chrf().sentence_score(hypothesis, [reference]).score) / 100
