"""Conformal thresholds: sets as the paper grows them, p-values, and the promise over many calibrations."""

import math
from itertools import combinations
from random import Random
from statistics import NormalDist

import pytest

from decoders.sequence.candidates.conformal_set import Growing, SetScore, Thresholds, grow
from server.calibration.conformal import (
    GRID,
    Labelled,
    Performance,
    calibrate,
    frontier,
    grid,
    p_value,
    performance,
)


def never(a: int, b: int) -> float:
    return 0.0


def test_samples_of_low_quality_and_copies_are_rejected() -> None:
    alike = {frozenset((0, 2)): 0.9, frozenset((1, 3)): 0.95}
    made = grow(
        [0.5, 0.2, 0.6, 0.4, 0.7],
        lambda a, b: alike.get(frozenset((a, b)), 0.1),
        Thresholds(0.8, 0.3, 0.65),
        "max",
    )
    assert made.kept == [0, 3, 4]  # 1 is too poor, 2 too like 0; 3 is like 1, which was not kept
    assert len(made.qualities) == 5


@pytest.mark.parametrize(
    ("score", "stop", "looked"), [("max", 0.6, 3), ("sum", 1.0, 3), ("count", 2.0, 2), ("sum", 9, 4)]
)
def test_a_set_stops_when_its_score_is_reached(score: SetScore, stop: float, looked: int) -> None:
    made = grow([0.3, 0.2, 0.6, 0.1], never, Thresholds(1.0, 0.0, stop), score)
    assert len(made.qualities) == looked
    assert made.complete == (looked < 4)


def test_an_empty_set_is_never_complete() -> None:
    growing = Growing(Thresholds(1.0, 0.5, 0.0), "count", never)
    assert not growing.add(0.4)
    assert not growing.complete
    assert growing.add(0.6)
    assert growing.complete


@pytest.mark.parametrize(("of", "eps"), [(10, 0.3), (40, 0.05), (200, 0.1)])
def test_p_values_are_binomial_tails(of: int, eps: float) -> None:
    for misses in range(0, of, max(1, of // 7)):
        exact = sum(math.comb(of, k) * eps**k * (1 - eps) ** (of - k) for k in range(misses + 1))
        assert p_value(misses, of, eps) == pytest.approx(exact, rel=1e-9)


def test_the_frontier_has_what_nothing_beats() -> None:
    draw = Random(5)
    points = [
        (
            Thresholds(1.0, i / 100, 0.5),
            Performance(draw.randrange(12), 50, draw.uniform(1, 8), draw.uniform(1, 4)),
        )
        for i in range(60)
    ]
    kept = frontier(points)
    for one in kept:
        assert not any(
            other.misses <= one[1].misses
            and other.cost <= one[1].cost
            and (other.misses, other.cost) != (one[1].misses, one[1].cost)
            for _, other in points
        )
    assert [one.misses for _, one in kept] == sorted({one.misses for _, one in kept})
    assert all(a[1].cost > b[1].cost for a, b in combinations(kept, 2))


def question(draw: Random, samples: int = 5) -> Labelled:
    """A question of some difficulty: how often a sample is right, and how well its quality tells that."""
    ease = draw.betavariate(2.0, 1.0)
    right = [draw.random() < ease for _ in range(samples)]
    qualities = [NormalDist().cdf(draw.gauss(0.8 if one else -0.5, 1.0)) for one in right]
    topic = [draw.randrange(2) if one else 2 + draw.randrange(3) for one in right]
    likeness = [
        [1.0 if a == b else (0.85 if topic[a] == topic[b] else 0.3) for b in range(samples)]
        for a in range(samples)
    ]
    return Labelled(qualities, right, likeness)


def test_the_promise_holds_over_200_calibrations() -> None:
    """P(risk > eps) <= delta over random calibration data, where the risk is that of a large population.

    Among 200 calibrations more than 20 that break eps = 0.3 would happen with probability below 0.1% if each
    did so with delta = 0.05.
    """
    draw = Random(2026)
    eps, delta = 0.3, 0.05
    population = [question(draw) for _ in range(1500)]
    judged: dict[Thresholds, float] = {}
    broken = found = 0
    risks = []
    for split in range(200):
        chosen = calibrate([question(draw) for _ in range(60)], eps, delta, "max", seed=split)
        if chosen.thresholds is None:
            continue
        found += 1
        risk = judged.setdefault(chosen.thresholds, performance(population, chosen.thresholds, "max").risk)
        risks.append(risk)
        broken += risk > eps
    assert found > 150, "the calibration hardly ever finds thresholds"
    assert broken <= 20
    # Not by being timid: half of them use a good part of what is allowed.
    assert sorted(risks)[len(risks) // 2] > eps / 4


def test_200_random_splits_of_one_set_of_questions() -> None:
    """Calibrated on one part and tested on the rest: the test's misses are no more than eps promises."""
    draw = Random(7)
    eps, delta = 0.3, 0.1
    questions = [question(draw) for _ in range(120)]
    above = 0
    for split in range(200):
        Random(split).shuffle(questions)
        chosen = calibrate(questions[:60], eps, delta, "max", seed=split)
        if chosen.thresholds is None:
            continue
        tested = performance(questions[60:], chosen.thresholds, "max")
        # The test's own chance: a risk of eps gives more misses than this in 5% of the tests.
        above += p_value(tested.of - tested.misses - 1, tested.of, 1 - eps) < 0.05
    assert above / 200 <= delta + 0.05


def test_what_cannot_be_kept_is_not_promised() -> None:
    hopeless = [Labelled([0.5, 0.4], [False, False], [[1.0, 0.0], [0.0, 1.0]])] * 40
    chosen = calibrate(hopeless, 0.1, 0.05, "max")
    assert chosen.thresholds is None
    assert chosen.tested == 1
    easy = [Labelled([0.5, 0.4], [True, True], [[1.0, 0.0], [0.0, 1.0]])] * 60
    sure = calibrate(easy, 0.1, 0.05, "count")
    assert sure.thresholds is not None
    assert sure.held == Performance(0, 30, 1.0, 1.0)


def test_the_grid_holds_thresholds_that_keep_everything() -> None:
    draw = Random(1)
    questions = [question(draw) for _ in range(20)]
    assert len(GRID) > 4
    for score in ("max", "sum", "count"):
        all_kept = [one for one in grid(questions, score) if (one.similarity, one.quality) == (1.0, 0.0)]
        whole = performance(questions, max(all_kept, key=lambda one: one.stop), score)
        assert (whole.samples, whole.size) == (5.0, 5.0)
        assert whole.misses == sum(not any(one.acceptable) for one in questions)
