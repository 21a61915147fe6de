"""What makes an answer right."""

from typing import Any

import pytest

from server.bench.matching import MATCHERS, common, matcher

COLOURS = ("red", "dark red", "blue")


@pytest.mark.parametrize(
    ("name", "text", "accepted", "right"),
    [
        ("exact", " VAMBURG. ", ["vamburg"], True),
        ("exact", "It is Vamburg", ["Vamburg"], False),
        ("exact", "Let me see.\nVamburg", ["Vamburg"], False),
        ("last_line", "Let me see.\nVamburg\n", ["Vamburg"], True),
        ("last_line", "Vamburg\nor so", ["Vamburg"], False),
        ("end", "The capital is Vamburg.", ["Vamburg"], True),
        ("end", "so 112", ["12"], False),
        ("contains", "The capital is Vamburg, I think", ["Vamburg"], True),
        ("contains", "The Vamburgers", ["Vamburg"], False),
        ("number", "34 + 28 = 62. The answer is 62.", ["62"], True),
        ("number", "62 of 63", ["62"], False),
        ("number", "1,200.50 in all", ["1200.5"], True),
        ("number", "It is -7", ["7"], False),
        ("number", "none", ["7"], False),
        ("choice", "Not red. It is blue.", ["blue"], True),
        ("choice", "Blue? No: dark red", ["red"], False),
        ("choice", "nothing of these", ["red"], False),
        ("boxed", r"so \boxed{\frac{1}{2}}", [r"\frac{1}{2}"], True),
        ("boxed", "1", ["1"], False),
        ("regex", "first 3, then 4 apples", ["4"], True),
        ("regex", "4 apples, then 3", ["3"], False),
    ],
)
def test_right_and_wrong(name: str, text: str, accepted: list[str], right: bool) -> None:
    pattern = r"(\d+) apples" if name == "regex" else None
    made = matcher(name, accepted, COLOURS if name == "choice" else (), pattern)
    assert made.grade(text) == right


def test_every_matcher_is_tried_above() -> None:
    (marks,) = (mark for mark in test_right_and_wrong.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]
    assert {case[0] for case in marks.args[1]} == set(MATCHERS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fuzzy", ["a"]), "matcher must be one of exact, "),
        (("number", ["many"]), "answer must be a number"),
        (("choice", ["a"], ("a",)), "choices: .* two"),
        (("choice", ["c"], ("a", "b")), "answer must be one of choices"),
        (("regex", ["a"]), "pattern is needed"),
        (("exact", ["a"], (), "x"), "pattern is needed"),
        (("regex", ["a"], (), "("), "pattern: .*no regular expression"),
        (("regex", ["a"], (), "x" * 513), "pattern must have"),
    ],
)
def test_what_a_matcher_lacks_is_said(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        matcher(*arguments)


def test_questions_share_an_extraction_or_do_not() -> None:
    number, choice = matcher("number", ["1"]).extract, matcher("choice", ["red"], COLOURS).extract
    assert common([number, dict(number)]) == number
    assert common([number, choice]) is None
    assert common([None, None]) is None
