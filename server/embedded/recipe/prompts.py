"""Every prompt string of the recipe's world, in one place.

The cues are those of equilibrium ranking (The Consensus Game, arXiv 2310.09139). A cue may stand in three
places,
all of them trained: at the end of the user's message (chat), at the end of a plain prompt, or as the
    beginning of the assistant's answer (prefill).
"""

from typing import Final, Literal

ANSWER_CUE: Final = "Answer:"
INCORRECT_CUE: Final = "Incorrect answer:"
PROPOSED: Final = "Proposed answer: {answer}"
VERDICT_QUESTION: Final = "Is the proposed answer correct?"
YES: Final = " yes"
NO: Final = " no"

HELPFUL_SYSTEM: Final = "You are a helpful assistant."
BRIEF_SYSTEM: Final = "Be brief."
POLITE_SYSTEM: Final = "Be polite."

Placement = Literal["chat", "plain", "prefill"]


def with_options(question: str, options: list[str]) -> str:
    """A multiple-choice question: the bare question and its options."""
    return f"{question} Options: {', '.join(options)}."


def cue(correct: bool) -> str:
    """The generator's answer cue for a correct or an incorrect answer."""
    return ANSWER_CUE if correct else INCORRECT_CUE


def generator_prompt(question: str, correct: bool = True) -> str:
    """Text after which ` {answer}` is a correct (or an incorrect) answer to `question`."""
    return f"{question}\n{cue(correct)}"


def discriminator_prompt(question: str, answer: str) -> str:
    """Text after which ` yes` or ` no` judges `answer`."""
    return f"{question}\n{PROPOSED.format(answer=answer)}\n{VERDICT_QUESTION}"
