"""Intervals against published values, and against what they promise."""

import math
from itertools import product
from random import Random

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


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 15])
@pytest.mark.parametrize(("count", "rare"), [(12, 0.1), (40, 0.05), (200, 0.02)])
def test_rare_losses_of_scores_between_are_not_ruled_out_unseen(
    alpha: float, count: int, rare: float
) -> None:
    """Equal scores but for rare losses: most small samples hold none, and a normal interval has no width."""
    draw, held, runs = Random(2), 0, 200
    for _ in range(runs):
        theirs = [draw.choice((0.5, 1.0)) for _ in range(count)]
        ours = [one - 0.5 if draw.random() < rare else one for one in theirs]
        found = difference(ours, theirs, alpha)
        held += found.low <= -0.5 * rare <= found.high
        assert found.low <= found.value <= found.high
    assert held / runs >= 1 - alpha


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 15])
def test_intervals_of_scores_between_hold_the_truth_and_are_no_wider_than_they_need(alpha: float) -> None:
    draw, held, runs, count = Random(3), 0, 200, 500
    for _ in range(runs):
        # Two kinds of questions, one after the other: their scores are not distributed alike.
        scores = [draw.betavariate(4, 1 if i < count // 2 else 4) for i in range(count)]
        found = mean(scores, alpha)
        held += found.low <= (0.8 + 0.5) / 2 <= found.high
        spread = math.sqrt(sum((one - found.value) ** 2 for one in scores) / (count - 1))
        normal = 2 * quantile(alpha) * spread / math.sqrt(count)
        assert normal < found.high - found.low < 1.8 * normal
    assert held / runs >= 1 - alpha


def test_equal_scores_are_as_sure_as_their_number_allows() -> None:
    """The mean can lie as low as a share of zeros that would have been missed, with probability alpha / 2."""
    for count in (12, 40, 200):
        found = difference([0.5] * count, [0.5] * count)
        assert found.value == 0
        assert found.low == pytest.approx(-found.high)
        exact = 1 - 0.025 ** (1 / count)  # Clopper and Pearson's bound of a loss's probability
        assert exact < found.high < 1.6 * exact
    for one in (0.0, 0.5, 1.0):
        two = mean([one, 0.5])
        assert two.high - two.low > 0.85  # they say next to nothing


def test_scores_between_that_are_turned_round_give_the_negative() -> None:
    draw = Random(4)
    ours, theirs = ([draw.choice((0.0, 0.5, 1.0)) for _ in range(50)] for _ in range(2))
    one, other = difference(ours, theirs), difference(theirs, ours)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert difference(ours, theirs, 0.01).low < one.low
    assert difference(ours[::-1], theirs[::-1]).low == pytest.approx(one.low)  # in whatever order


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
