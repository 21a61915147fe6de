"""What an answer comes down to: the part that counts, and when two are the same."""

import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from decoders.errors import Refusal
from decoders.exact import Exact

MATCH_SECONDS: Final = 0.2  # that a caller's pattern may search one answer
_AROUND: Final = " .,;:!?\"'`*()[]{}\u2018\u2019\u201c\u201d«»"
_WHERE: Final = "decoding.sequence.extract"


def normalised(text: str) -> str:
    """Text without what an answer may differ in: case, width, white space, punctuation around it."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(_AROUND)


class _Extract(Exact, ABC):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def answer(self, text: str) -> str | None:
        """The answer that `text` gives, None if it gives none."""

    def check(self) -> None:
        """Raise Refusal for an extraction that cannot work."""


class Whole(_Extract):
    """The whole text."""

    type: Literal["whole"]

    def answer(self, text: str) -> str | None:
        return text.strip() or None


class LastLine(_Extract):
    """The last line that is not empty."""

    type: Literal["last_line"]

    def answer(self, text: str) -> str | None:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else None


class Boxed(_Extract):
    r"""What the last \boxed{...} holds, braces in it balanced."""

    type: Literal["boxed"]

    def answer(self, text: str) -> str | None:
        begin = text.rfind("\\boxed{")
        if begin < 0:
            return None
        inside = text[begin + len("\\boxed{") :]
        depth = 1
        for position, character in enumerate(inside):
            depth += {"{": 1, "}": -1}.get(character, 0)
            if depth == 0:
                return inside[:position].strip() or None
        return None


class Pattern(_Extract):
    """The last match of a regular expression: its first group if it has one, else all of it."""

    type: Literal["regex"]
    pattern: str = Field(min_length=1, max_length=512, description="A regular expression, as Python's.")

    def check(self) -> None:
        import regex

        try:
            regex.compile(self.pattern)
        except regex.error:
            raise Refusal("The pattern is no regular expression.", f"{_WHERE}.pattern") from None

    def answer(self, text: str) -> str | None:
        import regex

        found = None
        try:
            for match in regex.finditer(self.pattern, text, timeout=MATCH_SECONDS):
                found = match[1] if match.re.groups else match[0]
        except TimeoutError:
            raise Refusal(
                f"The pattern takes more than {MATCH_SECONDS} s to search one answer; give a simpler one.",
                f"{_WHERE}.pattern",
            ) from None
        return found.strip() or None if found is not None else None


class JsonPointer(_Extract):
    """The value at a JSON pointer (RFC 6901) in the answer, which is one JSON value."""

    type: Literal["json"]
    pointer: str = Field(
        max_length=256,
        pattern=r"^(/([^~/]|~[01])*)*$",
        description='For example "/answer"; "" is the whole value.',
    )

    def answer(self, text: str) -> str | None:
        try:
            value: Any = json.loads(text)
            for part in self.pointer.split("/")[1:]:
                key = part.replace("~1", "/").replace("~0", "~")
                value = value[_index(key)] if isinstance(value, list) else value[key]
        except (ValueError, RecursionError, KeyError, IndexError, TypeError):
            return None
        return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _index(key: str) -> int:
    if not (key.isascii() and key.isdigit()) or (len(key) > 1 and key[0] == "0"):
        raise KeyError(key)
    return int(key)


Extract = Annotated[Whole | LastLine | Boxed | Pattern | JsonPointer, Field(discriminator="type")]


def grouped(answers: Sequence[str | None]) -> list[list[int]]:
    """Indices of the answers that are the same after `normalised`, in order of their first; None is none's
    equal.

    An answer that nothing is left of but punctuation is compared as it stands.
    """
    groups: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        if answer is not None:
            groups.setdefault(normalised(answer) or answer.strip(), []).append(index)
    return list(groups.values())
