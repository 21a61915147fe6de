"""When an answer is right: what of it counts, and what that is compared with."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from decoders.errors import Refusal
from decoders.sequence.candidates.answers import Boxed, LastLine, Pattern, Whole, normalised
from server.calibration.quality import is_right

MATCHERS: Final = ("exact", "last_line", "end", "contains", "number", "choice", "boxed", "regex")
NUMBER: Final = r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?"
Grade = Callable[[str], float]


@dataclass(frozen=True)
class Matcher:
    """grade: an answer's score, 0 to 1. extract: what of it counts, as methods' field `extract` has it."""

    grade: Grade
    extract: dict[str, Any]


def matcher(
    name: str, accepted: Sequence[str], choices: Sequence[str] = (), pattern: str | None = None
) -> Matcher:
    """How answers are graded.

    Args:
        name: one of MATCHERS. exact: the whole answer is an accepted one; last_line: its last line is; end:
            it ends with one; contains: one is somewhere in it, not in the midst of a word; number: its last
            number is; choice: the last of `choices` that it names is (capital letters alone, as in A to D: as
            capitals, or as all there is, because "a" is a word too); boxed: its last \\boxed{} is; regex:
            the last match of `pattern` (its first group, if it has one) is. Compared without case, white
            space and punctuation around; numbers by their value.
        accepted: right answers.

    Raises:
        ValueError: what the matcher needs is not there, or is none; in words, beginning with the field.
    """
    if name not in MATCHERS:
        raise ValueError(f"matcher must be one of {', '.join(MATCHERS)}")
    if (pattern is not None) != (name == "regex"):
        raise ValueError("pattern is needed with the matcher regex, and means nothing with another")
    if name == "choice":
        return _choice(accepted, choices)
    if name == "number":
        return _number(accepted)
    whole = {"type": "whole"}
    if name == "contains":
        return Matcher(lambda text: float(_contains(text, accepted)), whole)
    if name == "end":
        return Matcher(lambda text: float(is_right(text, accepted, "end")), whole)
    wanted = {normalised(one) for one in accepted}
    if pattern is not None:
        part: Pattern | Whole | LastLine | Boxed = _pattern(pattern)
    else:
        part = {"exact": Whole, "last_line": LastLine, "boxed": Boxed}[name](
            type={"exact": "whole"}.get(name, name)
        )

    def grade(text: str) -> float:
        found = part.answer(text)
        return float(found is not None and normalised(found) in wanted)

    return Matcher(grade, part.model_dump())


def _pattern(pattern: str) -> Pattern:
    if not 0 < len(pattern) <= 512:
        raise ValueError("pattern must have 1 to 512 characters")
    made = Pattern(type="regex", pattern=pattern)
    try:
        made.check()
    except Refusal as refusal:
        raise ValueError(f"pattern: {refusal.args[0]}") from None
    return made


def _contains(text: str, accepted: Sequence[str]) -> bool:
    whole = normalised(text)
    return any(re.search(rf"(?<!\w){re.escape(normalised(one))}(?!\w)", whole) for one in accepted)


def _choice(accepted: Sequence[str], choices: Sequence[str]) -> Matcher:
    if len(choices) < 2:
        raise ValueError("choices: the matcher choice needs two at least")
    wanted = {normalised(one) for one in accepted}
    if not wanted & {normalised(one) for one in choices}:
        raise ValueError("answer must be one of choices")
    part = _pattern(_naming(choices))

    def grade(text: str) -> float:
        found = part.answer(text)
        return float(found is not None and normalised(found) in wanted)

    return Matcher(grade, part.model_dump())


def _naming(choices: Sequence[str]) -> str:
    """A pattern of the last choice that is named, whatever its case, unless it is a capital letter."""
    letters = [one for one in choices if len(one) == 1 and one.isupper()]
    # In their own order otherwise: a state that is gone on with is known by what was extracted.
    longest_first = sorted((one for one in choices if one not in letters), key=len, reverse=True)
    words = f"(?i:{'|'.join(map(re.escape, longest_first))})" if longest_first else ""
    named = rf"(?<!\w)(?:{'|'.join(filter(None, (words, *letters)))})(?!\w)"
    return rf"{named}|\A\W*(?i:[{''.join(letters)}])\W*\Z" if letters else named


def _number(accepted: Sequence[str]) -> Matcher:
    values = {_value(one) for one in accepted}
    if None in values:
        raise ValueError("answer must be a number for the matcher number")
    part = _pattern(NUMBER)

    def grade(text: str) -> float:
        found = part.answer(text)
        return float(found is not None and _value(found) in values)

    return Matcher(grade, part.model_dump())


def _value(text: str) -> Decimal | None:
    try:
        return Decimal(text.strip().replace(",", ""))
    except InvalidOperation:
        return None


def common(extracts: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The one extraction that all questions share, None if they do not."""
    first = extracts[0] if extracts else None
    return dict(first) if first is not None and all(one == first for one in extracts) else None
