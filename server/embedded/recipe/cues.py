"""Exchanges that end in a cue: the generator's answers and the discriminator's verdicts."""

from random import Random
from typing import Final

from .prompts import NO, YES, Placement, cue, discriminator_prompt, generator_prompt
from .segments import Document, Segment

PLACEMENT_WEIGHTS: Final[dict[Placement, float]] = {"chat": 0.55, "plain": 0.25, "prefill": 0.2}


def draw_placement(rng: Random) -> Placement:
    """Draw where a document's answer cues stand."""
    return rng.choices(list(PLACEMENT_WEIGHTS), list(PLACEMENT_WEIGHTS.values()))[0]


def cued(placement: Placement, question: str, answer: str, correct: bool) -> Document:
    """`question` answered after the cue for a correct or an incorrect answer."""
    prompt = generator_prompt(question, correct)
    if placement == "plain":
        return [Segment("given", prompt), Segment("target", f" {answer}")]
    if placement == "prefill":
        return [Segment("user", question), Segment("assistant", f" {answer}", prefix=cue(correct))]
    return [Segment("user", prompt), Segment("assistant", f" {answer}")]


def verdict(placement: Placement, question: str, answer: str, correct: bool) -> Document:
    """The discriminator's judgement of one proposed answer; it has no prefilled form."""
    prompt, judgement = discriminator_prompt(question, answer), YES if correct else NO
    if placement == "plain":
        return [Segment("given", prompt), Segment("target", judgement)]
    return [Segment("user", prompt), Segment("assistant", judgement)]
