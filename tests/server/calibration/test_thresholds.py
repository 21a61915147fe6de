"""Switching played through on traces, and the thresholds chosen by it."""

from itertools import pairwise
from random import Random

import pytest

from server.calibration.thresholds import Switching, Trace, choose, large_tokens, rolling

PAPER = Switching(window=5, dwell=10, now=False)
EAGER = Switching(window=1, dwell=1, now=True)


def test_rolling_means_are_over_what_there_is() -> None:
    assert rolling([1.0, 2.0, 3.0, 4.0], 3) == (1.0, 1.5, 2.0, 3.0)
    assert rolling([], 3) == ()


@pytest.mark.parametrize(
    ("small", "large", "switching", "count"),
    [
        ([0, 0, 0, 0], [9] * 4, Switching(1, 1, False), 0),
        ([0, 2, 0, 0], [0] * 4, Switching(1, 1, False), 1),  # token 2 alone: token 1 made it switch
        ([0, 2, 0, 0], [0] * 4, Switching(1, 1, True), 1),  # token 1 alone, by itself
        ([2, 0, 0, 0], [0] * 4, Switching(1, 1, True), 1),
        ([0, 2, 0, 0], [0, 0, 9, 0], Switching(1, 1, False), 2),
        ([0, 2, 0, 0, 0, 0], [0] * 6, Switching(1, 3, False), 3),
        ([2, 0, 2, 2, 0, 0], [0] * 6, Switching(1, 2, False), 2),  # and the small one stays for two
        ([2, 0, 0, 0, 2, 0, 0], [0] * 7, Switching(1, 2, False), 4),
        ([2, 2, 2, 2], [], Switching(1, 1, False), 3),
        ([2, 2, 2, 2], [2], Switching(1, 1, True), 4),
    ],
)
def test_tokens_of_the_large_model(
    small: list[float], large: list[float], switching: Switching, count: int
) -> None:
    assert large_tokens(Trace(tuple(small), tuple(large)), 1.0, switching) == count


def traces(count: int = 60, tokens: int = 80) -> list[Trace]:
    rng = Random(5)

    def means(rate: float) -> tuple[float, ...]:
        entropies = [rng.expovariate(rate) * (rng.random() < 0.3) for _ in range(tokens)]
        return rolling(entropies, 5)

    return [Trace(means(1.0), means(2.0)) for _ in range(count)]


@pytest.mark.parametrize("switching", [PAPER, EAGER])
def test_chosen_thresholds_have_shares_evenly_apart(switching: Switching) -> None:
    given = traces()
    lowest = sum(large_tokens(trace, 0.0, switching) for trace in given) / (60 * 80)
    greatest = min(lowest, 0.9)
    chosen = choose(given, 9, switching)
    assert len(chosen) == 9
    assert all(low < high for low, high in pairwise(chosen))
    tokens = sum(len(trace.small) for trace in given)
    shares = [sum(large_tokens(trace, at, switching) for trace in given) / tokens for at in chosen]
    assert shares == pytest.approx([greatest * step / 9 for step in range(9, 0, -1)], abs=0.03)


def test_few_means_give_few_thresholds() -> None:
    assert choose([Trace((0.5, 0.5), (0.5,))], 9, PAPER) == [0.5]
    assert choose([Trace((0.0, 1.0), (0.0, 1.0))], 9, PAPER) == [0.5]
    assert choose([Trace((), ())], 9, PAPER) == []
