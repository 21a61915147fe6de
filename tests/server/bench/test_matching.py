"""What makes an answer right."""

from typing import Any

import pytest

from decoders.request import DecodingRequest
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


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("The answer is B, since a whale is a mammal.", "B"),
        ("A bird has wings, so it is (C).", "C"),
        ("It's not A. I'd say D", "D"),
        ("b", "B"),
        (" (b).\n", "B"),
        ("A", "A"),
        ("a fish", None),
        ("none of these", "None of these"),
        ("B? No: None of these.", "None of these"),
    ],
)
def test_a_choice_of_one_letter_is_told_from_the_word(text: str, named: str | None) -> None:
    choices = ("A", "B", "C", "D", "None of these")
    for answer in choices:
        assert matcher("choice", [answer], choices).grade(text) == (answer == named)


def test_small_letters_are_named_in_any_case() -> None:
    assert matcher("choice", ["b"], ("a", "b")).grade("The answer is B.") == 1


def test_the_same_choices_make_the_same_pattern() -> None:
    """Whatever the process: a bench's state is of questions with these patterns."""
    choices = tuple(f"{letter}-{number}" for letter in "abc" for number in range(4))
    pattern = matcher("choice", ["a-0"], (*choices, "A")).extract["pattern"]
    assert [pattern.index(one.replace("-", r"\-")) for one in choices] == sorted(
        pattern.index(one.replace("-", r"\-")) for one in choices
    )


def test_what_majority_is_sent_names_the_same_choice() -> None:
    extract = matcher("choice", ["B"], ("A", "B")).extract
    sent = DecodingRequest.model_validate(
        {"sequence": {"method": "majority", "candidates": 2, "extract": extract}}
    )
    assert sent.sequence.extract.answer("It is B, not a fish.") == "B"  # type: ignore[union-attr]


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
