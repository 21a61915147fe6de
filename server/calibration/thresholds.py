"""Which thresholds are worth measuring: those whose shares of large-model tokens lie evenly apart.

Plain quantiles of the small model's mean entropies would not: one crossing gives the large model `dwell`
tokens, so that shares near 1 would be measured again and again. So the switching is played through on
entropies that each model reported along its own answers. That only chooses; what is reported is measured.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

ENOUGH = 50_000  # tokens to play through; more tell no more
SAME = 1e-6  # bits between means that are not told apart


@dataclass(frozen=True)
class Switching:
    """EAD's parameters beside the threshold: tokens, and whether a token is judged by its own entropy."""

    window: int
    dwell: int
    now: bool


@dataclass(frozen=True)
class Trace:
    """Rolling mean entropies in bits of one prompt's two answers, one value a token."""

    small: tuple[float, ...]
    large: tuple[float, ...]


def rolling(entropies: Sequence[float], window: int) -> tuple[float, ...]:
    """Means over the last `window` values, at the beginning over those there are."""
    return tuple(
        sum(entropies[max(0, i + 1 - window) : i + 1]) / min(window, i + 1) for i in range(len(entropies))
    )


def large_tokens(trace: Trace, threshold: float, switching: Switching) -> int:
    """Tokens of an answer, as long as the small model's, that the large one would decode."""
    count, is_small, since = 0, True, None
    for i, small in enumerate(trace.small):
        mean = small if is_small else trace.large[min(i, len(trace.large) - 1)] if trace.large else small
        crossed = (mean > threshold) == is_small and (since is None or since >= switching.dwell)
        if crossed and switching.now:
            is_small, since = not is_small, 0
        count += not is_small
        since = None if since is None else since + 1
        if (
            not switching.now
            and (mean > threshold) == is_small
            and (since is None or since >= switching.dwell)
        ):
            is_small, since = not is_small, 0
    return count


def choose(traces: Sequence[Trace], count: int, switching: Switching) -> list[float]:
    """At most `count` thresholds in bits, ascending, with shares evenly apart as far as the data allows."""
    played = _enough(traces)
    tokens = sum(len(trace.small) for trace in played)
    means = _distinct(sorted(mean for trace in played for mean in trace.small))
    between = [(low + high) / 2 for low, high in pairwise(means)]
    if not between:
        return [_short(mean) for mean in means[:1]]
    known: dict[int, float] = {}

    def kept_small(i: int) -> float:
        """The small model's share at between[i], which grows with the threshold."""
        if i not in known:
            taken = sum(large_tokens(trace, between[i], switching) for trace in played)
            known[i] = 1 - taken / tokens
        return known[i]

    chosen: set[float] = set()
    greatest = min(1 - kept_small(0), count / (count + 1))
    for step in range(1, count + 1):
        wanted = 1 - greatest * step / count
        at = bisect_left(range(len(between)), wanted, key=kept_small)
        near = [i for i in (at - 1, at) if 0 <= i < len(between)]
        chosen.add(_short(between[min(near, key=lambda i: abs(kept_small(i) - wanted))]))
    return sorted(chosen)


def _enough(traces: Sequence[Trace]) -> list[Trace]:
    played: list[Trace] = []
    tokens = 0
    for trace in traces:
        if tokens < ENOUGH:
            played.append(trace)
            tokens += len(trace.small)
    return played


def _distinct(ordered: Sequence[float]) -> list[float]:
    kept: list[float] = []
    for value in ordered:
        if not kept or value - kept[-1] > SAME:
            kept.append(value)
    return kept


def _short(value: float) -> float:
    return float(f"{value:.6g}")
