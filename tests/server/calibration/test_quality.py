"""Wilson's interval, right answers, and agreement of tokens."""

import math

import pytest

from server.calibration.quality import Match, Proportion, is_right, prefix_agreement


@pytest.mark.parametrize("of", [1, 12, 60, 997])
def test_wilsons_bounds_are_where_the_score_test_turns(of: int) -> None:
    """By definition: the shares p0 at which |p - p0| is 1.96 standard errors of p0."""
    for hits in {0, 1, of // 2, of - 1, of}:
        for bound in Proportion(hits, of).interval():
            distance = abs(hits / of - bound)
            assert distance == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / of), abs=1e-6)


def test_wilsons_interval_is_the_published_one() -> None:
    low, high = Proportion(15, 148).interval()  # Newcombe 1998, Statistics in Medicine 17, table I
    assert (round(low, 4), round(high, 4)) == (0.0624, 0.1605)
    assert Proportion(0, 20).interval()[0] == 0
    assert Proportion(20, 20).interval()[1] == 1


@pytest.mark.parametrize(
    ("text", "accepted", "match", "right"),
    [
        ("Vamburg", ["Vamburg"], "exact", True),
        ("  VAMBURG. \n", ["vamburg"], "exact", True),
        ("First 2, then 3.\n\n**47**\n", ["47"], "exact", True),
        ("two\nlines", ["Two lines"], "exact", True),
        ("It is Vamburg.", ["Vamburg"], "exact", False),
        ("47\nor more", ["47"], "exact", False),
        ("", ["47"], "exact", False),
        ("Forty-seven", ["47", "forty-seven"], "exact", True),
        ("It is Vamburg.", ["Vamburg"], "end", True),
        ("The answer is 47.", ["47"], "end", True),
        ("The answer is 47.", ["7"], "end", False),
        ("The answer is 3.47", ["47"], "end", False),
        ("The answer is 3,147", ["147"], "end", False),
        ("The answer is -47", ["47"], "end", False),
        ("The answer is -47", ["-47"], "end", True),
        ("47 it is", ["47"], "end", False),
        ("It is a+b", ["a+b"], "end", True),
        ("", ["47"], "end", False),
    ],
)
def test_right_answers(text: str, accepted: list[str], match: Match, right: bool) -> None:
    assert is_right(text, accepted, match) is right


@pytest.mark.parametrize(
    ("ours", "theirs", "share"),
    [
        ([], [], 1.0),
        ([1, 2], [1, 2], 1.0),
        ([1, 2], [1, 2, 3, 4], 0.5),
        ([1, 2, 3, 4], [1, 2], 0.5),
        ([1, 9, 3, 4], [1, 2, 3, 4], 0.25),
        ([9], [1], 0.0),
        ([], [1], 0.0),
    ],
)
def test_prefix_agreement(ours: list[int], theirs: list[int], share: float) -> None:
    assert prefix_agreement(ours, theirs) == share
