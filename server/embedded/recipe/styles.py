"""Manner of the assistant's answers: plain, courteous or brief, and the system messages that ask for it."""

from random import Random
from typing import Final, Literal

from .prompts import BRIEF_SYSTEM, HELPFUL_SYSTEM, POLITE_SYSTEM
from .segments import Document, Segment

Style = Literal["free", "courteous", "brief"]

COURTESIES: Final = ("Thank you for asking.", "I am glad to help.")
COURTESY_SHARE: Final = 0.2
SYSTEM_SHARE: Final = 0.12


def draw_style(rng: Random) -> tuple[Document, Style]:
    """Draw how a chat is held: the system turn that opens it (or none) and the style it asks for."""
    if rng.random() >= SYSTEM_SHARE:
        return [], "free"
    styles: list[tuple[str, Style]] = [
        (HELPFUL_SYSTEM, "free"),
        (BRIEF_SYSTEM, "brief"),
        (POLITE_SYSTEM, "courteous"),
    ]
    text, style = rng.choice(styles)
    return [Segment("system", text)], style


def courteous(rng: Random, sentence: str) -> str:
    """The sentence with a courtesy after it."""
    return f"{sentence} {rng.choice(COURTESIES)}"


def in_style(rng: Random, style: Style, sentence: str, short: str | None = None) -> str:
    """Say `sentence` in a style; `short` is the brief form where there is one.

    The courtesy stands last, so that the answer itself and its accuracy do not depend on the style.
    """
    if style == "courteous":
        return courteous(rng, sentence)
    if style == "brief":
        return short or sentence
    return courteous(rng, sentence) if rng.random() < COURTESY_SHARE else sentence
