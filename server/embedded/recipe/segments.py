"""What a training document is made of."""

from collections.abc import Callable
from random import Random
from typing import Literal, NamedTuple

Role = Literal["system", "user", "assistant", "text", "given", "target"]


class Segment(NamedTuple):
    """A piece of a document.

    role: `system`, `user`, `assistant` are chat turns; `text` is plain text; `given` and `target` are plain
        text of which only the target is to be learned.
    text: what is said.
    prefix: words put into the assistant's mouth before `text` (a prefilled answer cue).
    """

    role: Role
    text: str
    prefix: str = ""


Document = list[Segment]
DocumentMaker = Callable[[Random], Document]


def exchange(question: str, answer: str) -> Document:
    """One turn of a chat: the user's and the assistant's."""
    return [Segment("user", question), Segment("assistant", answer)]
