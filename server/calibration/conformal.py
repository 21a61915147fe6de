"""Thresholds of the conformal method from labelled samples: Pareto testing (arXiv 2306.10193, section 4).

A grid of thresholds is thinned to its Pareto frontier (miss rate against cost) on one half of the questions;
on the other half the frontier is tested in the order of its expected safety, with binomial p-values, until
the first
failure: fixed-sequence testing, which needs no correction for many tests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Final

from decoders.sequence.candidates.conformal_set import SetScore, Thresholds, grow

GRID: Final = (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 1.0)  # quantiles that thresholds are taken at
SIMILARITIES: Final = (0.7, 0.9, 1.0)


@dataclass(frozen=True)
class Labelled:
    """One question's samples in the order of drawing. likeness: `[samples][samples]`."""

    qualities: Sequence[float]
    acceptable: Sequence[bool]
    likeness: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Performance:
    """Of one choice of thresholds on some questions: how many sets held no acceptable answer, and the mean
    cost.
    """

    misses: int
    of: int
    samples: float
    size: float

    @property
    def risk(self) -> float:
        return self.misses / self.of

    @property
    def cost(self) -> float:
        """Samples drawn and answers in the set, which somebody has to look at."""
        return self.samples + self.size


@dataclass(frozen=True)
class Chosen:
    """thresholds: None where none could be shown to keep eps. held: what they did on the second half, of so
    many questions. tested: how many thresholds were."""

    thresholds: Thresholds | None
    held: Performance | None
    tested: int
    questions: int


def performance(questions: Sequence[Labelled], thresholds: Thresholds, set_score: SetScore) -> Performance:
    misses, samples, size = 0, 0, 0
    for one in questions:
        made = grow(one.qualities, lambda a, b, one=one: one.likeness[a][b], thresholds, set_score)  # type: ignore[misc]
        misses += not any(one.acceptable[index] for index in made.kept)
        samples += len(made.qualities)
        size += len(made.kept)
    return Performance(misses, len(questions), samples / len(questions), size / len(questions))


def p_value(misses: int, of: int, eps: float) -> float:
    """P(Binomial(of, eps) <= misses): how likely so few misses are if the risk is above eps."""
    choices = [math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) for k in range(misses + 1)]
    logs = [log + k * math.log(eps) + (of - k) * math.log1p(-eps) for k, log in enumerate(choices)]
    top = max(logs)
    return min(1.0, math.exp(top) * sum(math.exp(log - top) for log in logs))


def grid(questions: Sequence[Labelled], set_score: SetScore) -> list[Thresholds]:
    """Thresholds to try, at quantiles of what the questions' samples have."""
    qualities = sorted(quality for one in questions for quality in one.qualities)
    of_quality = sorted({0.0, *(_quantile(qualities, q) for q in GRID[:-2])})
    most = max(len(one.qualities) for one in questions)
    if set_score == "count":
        stops = [float(count) for count in range(1, most + 1)]
    else:
        sets = [one.qualities for one in questions]
        scores = sorted(max(values) if set_score == "max" else sum(values) for values in sets)
        stops = sorted({_quantile(scores, q) for q in GRID})
    never = float(most + 1)  # above every score
    return [Thresholds(*one) for one in product(SIMILARITIES, of_quality, [*stops, never])]


def _quantile(values: Sequence[float], q: float) -> float:
    return values[min(len(values) - 1, int(q * len(values)))]


def frontier(points: Sequence[tuple[Thresholds, Performance]]) -> list[tuple[Thresholds, Performance]]:
    """Those that no other beats in misses and cost at once; fewest misses first."""
    best: list[tuple[Thresholds, Performance]] = []
    for point in sorted(points, key=lambda one: (one[1].misses, one[1].cost)):
        if not best or point[1].cost < best[-1][1].cost:
            best.append(point)
    return best


def calibrate(
    questions: Sequence[Labelled], eps: float, delta: float, set_score: SetScore, seed: int = 0
) -> Chosen:
    """The cheapest thresholds whose risk is at most `eps`, with probability 1 - `delta` over the questions
    drawn.
    """
    order = list(questions)
    Random(seed).shuffle(order)
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    points = [(one, performance(first, one, set_score)) for one in grid(first, set_score)]
    chosen: Thresholds | None = None
    did: Performance | None = None
    tested = 0
    for thresholds, _ in frontier(points):
        tested += 1
        held = performance(second, thresholds, set_score)
        if p_value(held.misses, held.of, eps) > delta:
            break
        chosen, did = thresholds, held  # costs fall along the frontier
    return Chosen(chosen, did, tested, len(second))
