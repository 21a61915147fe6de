"""Intervals against published values, and against what they promise."""

import math
from itertools import product
from random import Random
from statistics import fmean

import pytest

from server.bench.statistic import difference, mean, quantile, ratio, rounds_needed


def paired(both: int, ours: int, theirs: int, neither: int) -> tuple[list[float], list[float]]:
    first = [1.0] * (both + ours) + [0.0] * (theirs + neither)
    second = [1.0] * both + [0.0] * ours + [1.0] * theirs + [0.0] * neither
    return first, second


def test_paired_proportions_are_newcombes() -> None:
    """Newcombe 1998, table III, method 10, for 36, 12, 2, 0."""
    found = difference(*paired(36, 12, 2, 0))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)


def test_a_difference_turned_round_is_its_negative() -> None:
    for counts in product((0, 1, 7, 30), repeat=4):
        if not sum(counts):
            continue
        ours, theirs = paired(*counts)
        one, other = difference(ours, theirs), difference(theirs, ours)
        assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
        assert -1 <= one.low <= one.value <= one.high <= 1


def test_paired_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    draw, held, n = Random(1), 0, 400
    for _ in range(n):
        both = [draw.random() < 0.7 for _ in range(60)]
        ours = [float(one if draw.random() < 0.8 else draw.random() < 0.9) for one in both]
        theirs = [float(one if draw.random() < 0.8 else draw.random() < 0.6) for one in both]
        found = difference(ours, theirs)
        held += found.low <= 0.2 * (0.9 - 0.6) <= found.high
    assert 0.92 <= held / n <= 0.99


def test_scores_between_get_the_normal_interval() -> None:
    ours, theirs = [0.5, 1.0, 0.25, 0.75], [0.25, 0.5, 0.25, 0.5]
    found = difference(ours, theirs)
    gaps = [0.25, 0.5, 0.0, 0.25]
    spread = math.sqrt(sum((gap - fmean(gaps)) ** 2 for gap in gaps) / 3)
    assert found.value == fmean(gaps)
    assert found.high - found.value == pytest.approx(1.95996 * spread / 2, rel=1e-4)
    assert mean(ours).value == 0.625
    assert mean([0.5]).low == 0  # one question says nothing


def test_wilson_widens_with_confidence() -> None:
    scores = [1.0] * 18 + [0.0] * 2
    assert (mean(scores).low, mean(scores).high) == pytest.approx((0.699, 0.972), abs=5e-4)
    assert mean(scores, 0.01).low < mean(scores).low
    assert quantile(0.05) == pytest.approx(1.959964)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 15])
def test_the_median_lies_between_order_statistics_by_the_sign_test(alpha: float) -> None:
    needed = rounds_needed(alpha)
    assert not ratio(list(range(needed - 1)), alpha).is_known
    for n in range(needed, needed + 15):
        found = ratio([float(i) for i in range(1, n + 1)], alpha)
        # Probability that fewer than `low` of n values lie below the median, both sides.
        missed = 2 * sum(math.comb(n, k) for k in range(int(found.low))) / 2**n
        wider = 2 * sum(math.comb(n, k) for k in range(int(found.low) + 1)) / 2**n
        assert missed <= alpha < wider
        assert found.low + found.high == n + 1
