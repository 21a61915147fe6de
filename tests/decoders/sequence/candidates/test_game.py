"""The consensus game: golden values, hard games, and an independent computation."""

import math
import random

import pytest

from decoders.sequence.candidates.game import POINTS, RULES, Evidence, play, trajectory
from tests.decoders.sequence.candidates.reference import game

INCORRECT = [0.20, 0.30, 0.25, 0.25]
CORRECT = [0.40, 0.35, 0.15, 0.10]
JUDGED_INCORRECT = [0.55, 0.35, 0.60, 0.70]
INITIAL_G = [0.357301, 0.288589, 0.200982, 0.153129]
INITIAL_D = [0.5, 0.694175, 0.448980, 0.343750]
GOLDEN = {
    1: ([0.251045, 0.252935, 0.248990, 0.247030], [0.502489, 0.502924, 0.498356, 0.496152]),
    100: ([0.310108, 0.323020, 0.206706, 0.160166], [0.545640, 0.639938, 0.448159, 0.362182]),
    1000: ([0.356833, 0.578128, 0.048084, 0.016955], [0.759709, 0.927508, 0.273302, 0.060030]),
    5000: ([0.363560, 0.616238, 0.015696, 0.004506], [0.831253, 0.972009, 0.221433, 0.019536]),
}


def golden_game() -> list[Evidence]:
    return [
        Evidence(math.log(correct), math.log(incorrect), math.log(1 - no), math.log(no))
        for correct, incorrect, no in zip(CORRECT, INCORRECT, JUDGED_INCORRECT, strict=True)
    ]


@pytest.mark.parametrize("iterations", GOLDEN)
def test_golden_values(iterations: int) -> None:
    ranking = play(golden_game(), iterations=iterations)
    for y in range(4):
        scores = ranking.scores(y)
        assert list(scores) == list(RULES)
        assert scores["er_g"] == pytest.approx(GOLDEN[iterations][0][y], abs=1e-6)
        assert scores["er_d"] == pytest.approx(GOLDEN[iterations][1][y], abs=1e-6)
        assert scores["sc"] == pytest.approx(INITIAL_G[y], abs=1e-6)
        assert scores["d"] == pytest.approx(INITIAL_D[y], abs=1e-6)
        assert scores["g"] == pytest.approx(math.log(CORRECT[y]))
        assert scores["mi"] == pytest.approx(math.log(CORRECT[y] * (1 - JUDGED_INCORRECT[y])))


def test_the_rules_disagree_as_they_should() -> None:
    ranking = play(golden_game())
    assert ranking.order("g") == ranking.order("sc") == [0, 1, 2, 3]
    assert ranking.order("er_g") == ranking.order("er_d") == [1, 0, 2, 3]


def test_only_the_labels_ratio_counts() -> None:
    """A model that gives most of its mass to other words than the labels judges as its labels say."""
    scaled = [
        Evidence(one.correct, one.incorrect, one.yes - 7 - y, one.no - 7 - y)
        for y, one in enumerate(golden_game())
    ]
    ours, theirs = play(scaled), play(golden_game())
    for rule in RULES:
        assert ours.log_scores[rule] == pytest.approx(theirs.log_scores[rule], abs=1e-9)


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_random_games_are_those_of_an_independent_program(count: int) -> None:
    draw = random.Random(count)
    for _ in range(3):
        generator = [[draw.uniform(-30, -1), draw.uniform(-30, -1)] for _ in range(count)]
        yes = [draw.uniform(0.01, 0.99) for _ in range(count)]
        labels = [[math.log(one), math.log(1 - one)] for one in yes]
        expected_g, expected_d = game(generator, labels, 300)
        evidence = [Evidence(*generator[y], *labels[y]) for y in range(count)]
        ranking = play(evidence, iterations=300)
        for y in range(count):
            assert ranking.scores(y)["er_g"] == pytest.approx(expected_g[y][0], abs=1e-9)
            assert ranking.scores(y)["er_d"] == pytest.approx(expected_d[y][0], abs=1e-9)


def test_sequences_whose_probability_no_float_holds_are_still_told_apart() -> None:
    evidence = [Evidence(-5000.0, -5003.0, -0.7, -0.7), Evidence(-5001.0, -5001.0, -0.7, -0.7)]
    ranking = play(evidence)
    assert math.exp(evidence[0].correct) == 0.0
    for rule in RULES:
        assert all(math.isfinite(value) for value in ranking.log_scores[rule])
        assert ranking.order(rule) == [0, 1] or rule == "d"
    far = play([Evidence(-1.0, -2.0, -0.1, -2.3), Evidence(-9000.0, -8000.0, -800.0, -1e-9)])
    assert far.order("er_g") == far.order("er_d") == far.order("sc") == [0, 1]
    assert all(0 <= far.scores(y)[rule] <= 1 for y in (0, 1) for rule in ("sc", "d", "er_g", "er_d"))


def test_a_single_candidate_and_identical_ones() -> None:
    alone = play([Evidence(-3.0, -4.0, -0.2, -1.7)])
    assert alone.scores(0)["er_g"] == pytest.approx(1.0)
    assert alone.order("er_d") == [0]
    same = play([Evidence(-3.0, -4.0, -0.2, -1.7)] * 3)
    for rule in RULES:
        assert len(set(same.log_scores[rule])) == 1
        assert same.order(rule) == [0, 1, 2]
    assert same.scores(1)["er_g"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("iterations", [1, 2, 3, 30, 5000])
def test_a_trajectory_goes_from_the_initial_policies_to_the_last_ones(iterations: int) -> None:
    path = trajectory(golden_game(), iterations=iterations)
    rounds = path.iterations
    assert (rounds[0], rounds[-1]) == (0, iterations)
    assert rounds == sorted(set(rounds))
    assert len(rounds) == min(iterations + 1, POINTS) if iterations < 4 else 12 <= len(rounds) <= POINTS
    last = play(golden_game(), iterations=iterations)
    for y in range(4):
        assert path.er_g[0][y] == pytest.approx(INITIAL_G[y], abs=1e-6)
        assert path.er_d[0][y] == pytest.approx(INITIAL_D[y], abs=1e-6)
        assert path.er_g[-1][y] == pytest.approx(last.scores(y)["er_g"], abs=1e-12)
        assert path.er_d[-1][y] == pytest.approx(last.scores(y)["er_d"], abs=1e-12)


def test_a_trajectory_between_its_ends_is_the_game_after_so_many_rounds() -> None:
    path = trajectory(golden_game(), iterations=300)
    generator = [[one.correct, one.incorrect] for one in golden_game()]
    labels = [[one.yes, one.no] for one in golden_game()]
    for count, row_g, row_d in zip(path.iterations, path.er_g, path.er_d, strict=True):
        expected_g, expected_d = game(generator, labels, count)
        assert row_g == pytest.approx([one[0] for one in expected_g], abs=1e-9)
        assert row_d == pytest.approx([one[0] for one in expected_d], abs=1e-9)
