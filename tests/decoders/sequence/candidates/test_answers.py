"""What counts of an answer, and which answers are the same."""

import time
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from decoders.errors import Refusal
from decoders.sequence.candidates.answers import Extract, grouped

EXTRACT = TypeAdapter(Extract)


def extract(**fields: Any) -> Any:
    return EXTRACT.validate_python(fields)


@pytest.mark.parametrize(
    ("fields", "text", "answer"),
    [
        ({"type": "whole"}, " two\nlines ", "two\nlines"),
        ({"type": "whole"}, " \n", None),
        ({"type": "last_line"}, "thoughts\n 42. \n\n", "42."),
        ({"type": "last_line"}, "\n", None),
        ({"type": "boxed"}, r"\boxed{1} then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ({"type": "boxed"}, r"\boxed{1", None),
        ({"type": "boxed"}, "no box", None),
        ({"type": "regex", "pattern": r"answer is (\d+)"}, "The answer is 1. No, the answer is 47.", "47"),
        ({"type": "regex", "pattern": r"\d+"}, "3 and 4", "4"),
        ({"type": "regex", "pattern": r"(x)|\d"}, "4", None),
        ({"type": "regex", "pattern": r"\d+"}, "none", None),
        ({"type": "json", "pointer": "/a/1/b~1c"}, '{"a": [0, {"b/c": "yes"}]}', "yes"),
        ({"type": "json", "pointer": "/n"}, '{"n": {"z": 1, "a": 2}}', '{"a": 2, "z": 1}'),
        ({"type": "json", "pointer": ""}, "17", "17"),
        ({"type": "json", "pointer": "/a/01"}, '{"a": [0, 1]}', None),
        ({"type": "json", "pointer": "/a"}, "not JSON", None),
        ({"type": "json", "pointer": "/a/b"}, '{"a": 3}', None),
    ],
)
def test_extraction(fields: dict[str, Any], text: str, answer: str | None) -> None:
    assert extract(**fields).answer(text) == answer


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "json", "pointer": "a"},
        {"type": "json", "pointer": "/~2"},
        {"type": "regex", "pattern": ""},
        {"type": "x"},
    ],
)
def test_what_is_no_extraction(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        extract(**fields)


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(Refusal, match="no regular expression") as refused:
        extract(type="regex", pattern="(").check()
    assert refused.value.param == "decoding.sequence.extract.pattern"
    extract(type="regex", pattern="(a)").check()


def test_a_pattern_that_takes_for_ever_is_refused_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(Refusal, match="search one answer"):
        extract(type="regex", pattern=r"(a|aa|b?a)+$").answer("a" * 5000 + "c")
    assert time.monotonic() - began < 30


def test_the_same_answers_are_one_candidate() -> None:
    answers = ["Paris", " paris.", None, "Paris, France", "\uff30aris", "...", "!", "..."]
    assert grouped(answers) == [[0, 1, 4], [3], [5, 7], [6]]
