"""Intervals: of a mean score, of the difference of two paired ones, of the median of ratios."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median
from typing import Final

import numpy as np

from server.calibration.quality import Proportion

NODES: Final = 16  # stakes that a bound's capital is spread over
STEPS: Final = 40  # halvings until a bound is exact to 1e-12


@dataclass(frozen=True)
class Estimate:
    """low, high: of the interval; minus and plus infinity where too little is known for one."""

    value: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def quantile(alpha: float) -> float:
    """The normal quantile of a two-sided interval that misses with probability `alpha`."""
    return NormalDist().inv_cdf(1 - alpha / 2)


def mean(scores: Sequence[float], alpha: float = 0.05) -> Estimate:
    """Of scores in [0, 1], one a question: Wilson's interval if all are 0 or 1, else `_bounds`."""
    if _binary(scores):
        share = Proportion(round(sum(scores)), len(scores))
        return Estimate(share.value, *share.interval(quantile(alpha)))
    return Estimate(fmean(scores), *_bounds(scores, alpha))


def difference(ours: Sequence[float], theirs: Sequence[float], alpha: float = 0.05) -> Estimate:
    """The mean of `ours` less that of `theirs`, on the same questions.

    Of scores that are 0 or 1: Newcombe's interval for paired proportions, method 10 (Statistics in Medicine
    17:2635, 1998), which keeps its coverage where differences are few. Else `_bounds` of the questions'
    differences, moved into [0, 1].
    """
    if _binary(ours) and _binary(theirs):
        return _newcombe(ours, theirs, quantile(alpha))
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    low, high = _bounds([(gap + 1) / 2 for gap in gaps], alpha)
    return Estimate(fmean(gaps), 2 * low - 1, 2 * high - 1)


def _newcombe(ours: Sequence[float], theirs: Sequence[float], z: float) -> Estimate:
    pairs = list(zip(ours, theirs, strict=True))
    n = len(pairs)
    both, only_ours, only_theirs = (pairs.count(pair) for pair in ((1, 1), (1, 0), (0, 1)))
    neither = n - both - only_ours - only_theirs
    first, second = Proportion(both + only_ours, n), Proportion(both + only_theirs, n)
    (low1, high1), (low2, high2) = first.interval(z), second.interval(z)
    value = (only_ours - only_theirs) / n
    phi = _phi(both, only_ours, only_theirs, neither)
    down, up = (first.value - low1, high2 - second.value), (high1 - first.value, second.value - low2)
    below, above = (math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b)) for a, b in (down, up))
    return Estimate(value, max(-1.0, value - below), min(1.0, value + above))


def _phi(a: int, b: int, c: int, d: int) -> float:
    """The correlation of the two answers to a question, its numerator corrected for continuity."""
    spread = (a + b) * (c + d) * (a + c) * (b + d)
    if not spread:
        return 0.0
    covariance = float(a * d - b * c)
    if covariance > 0:
        covariance = max(0.0, covariance - (a + b + c + d) / 2)
    return covariance / math.sqrt(spread)


def ratio(values: Sequence[float], alpha: float = 0.05) -> Estimate:
    """The median of ratios, one a round, between two of their order statistics.

    The interval holds the median with probability at least 1 - alpha whatever their distribution is (by the
    sign test); with fewer than 6 values there is none at 95%.
    """
    ordered = sorted(values)
    n, rank = len(ordered), 0
    tail = 0.0
    while rank <= n // 2:
        tail += math.comb(n, rank) * 0.5**n
        if 2 * tail > alpha:
            break
        rank += 1
    low, high = (ordered[rank - 1], ordered[n - rank]) if rank else (-math.inf, math.inf)
    return Estimate(median(ordered), low, high)


def rounds_needed(alpha: float) -> int:
    """The fewest values of which `ratio` gives an interval."""
    return math.ceil(1 - math.log2(alpha))


def _binary(scores: Sequence[float]) -> bool:
    return all(one in (0, 1) for one in scores)


def _bounds(values: Sequence[float], alpha: float) -> tuple[float, float]:
    """An interval of the mean of independent values in [0, 1]; it misses with probability alpha at most.

    Whatever the distribution is, and for any number of values: equal ones give it a width too, because rare
    others may not have been seen. By betting (Waudby-Smith and Ramdas, Journal of the Royal Statistical
    Society B 86:1, 2024): see `_low`.
    """
    high = 1 - _low([1 - one for one in values], alpha)
    return _low(values, alpha), high


def _low(values: Sequence[float], alpha: float) -> float:
    """A bound below the mean that is above it with probability alpha / 2 at most.

    Who stakes a part f of the capital on every value, at odds that are fair if the mean is m, ends with
    prod(1 - f + f values / m). Of independent values with mean m, distributed alike or not, its expectation
    is 1 at most (the geometric mean is below the arithmetic one), so it exceeds 2 / alpha with probability
    alpha / 2 at most (Markov's inequality). So does its mean over stakes; those are taken where the
    Dirichlet(1/2) prior of universal portfolios has its quantiles (Cover and Ordentlich, IEEE Transactions on
    Information Theory 42:348, 1996). It falls as m rises: the bound is where it is 2 / alpha.
    """
    given = np.array(values)
    stakes = np.sin(np.pi * (np.arange(NODES) + 0.5) / (2 * NODES)) ** 2
    low, high = 0.0, float(given.mean())
    for _ in range(STEPS if high > 0 else 0):
        m = (low + high) / 2
        capital = np.log1p(stakes[:, None] * (given / m - 1)).sum(axis=1)
        if np.logaddexp.reduce(capital) >= math.log(2 * NODES / alpha):
            low = m
        else:
            high = m
    return low
