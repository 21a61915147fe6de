"""Which setting to take, and how sure that is: nothing is said that the intervals do not carry."""

import math
from dataclasses import dataclass
from typing import Literal

from server.bench.statistic import difference, rounds_needed
from server.bench.summary import Row, Summary

Goal = Literal["quality", "cost"]


@dataclass(frozen=True)
class Choice:
    """reasons: sentences, the decisive one first."""

    row: Row
    reasons: tuple[str, ...]


def choose(summary: Summary, margin: float, goal: Goal) -> Choice:
    """The setting to take.

    Better: the interval of its gain over plain lies above 0. Cheaper: that of its cost over plain's lies
    below 1, and that of its gain above -margin. By `goal`, the best of those that are better goes before the
    cheapest of those that are cheaper, or the other way round; where nothing is shown, plain decoding stays.

    The intervals miss with probability 0.05 / m each, for m settings beside plain (Bonferroni). Every claim
    uses one of their ends, and "cheaper" needs both of its own, so it is wrong no more often than one of
    them (an intersection-union test): the chance that any claim is wrong is at most
    m (0.025 / m) for "better" and as much for "cheaper", 0.05 together.
    """
    others = summary.rows[1:]
    better = max((row for row in others if row.gain_sure.low > 0), key=_best, default=None)
    cheaper = min((row for row in others if _is_cheaper(row, margin)), key=_cheapest, default=None)
    first, second = (better, cheaper) if goal == "quality" else (cheaper, better)
    chosen = first or second
    if chosen is None:
        return Choice(summary.plain, _nothing(summary, margin))
    reason = _better(summary, chosen) if chosen is better else _cheaper(summary, chosen, margin)
    return Choice(chosen, (reason, *_beside(summary, chosen, better, cheaper)))


def _is_cheaper(row: Row, margin: float) -> bool:
    return row.times_sure is not None and row.times_sure.high < 1 and row.gain_sure.low > -margin


def _best(row: Row) -> tuple[float, float]:
    return row.quality.value, -(row.times.value if row.times else math.inf)


def _cheapest(row: Row) -> tuple[float, float]:
    return (row.times.value if row.times else math.inf), -row.quality.value


def _better(summary: Summary, row: Row) -> str:
    low, high = row.gain_sure.low, row.gain_sure.high
    text = f"{row.name} is better than plain decoding: {summary.measure} {row.quality.value:.3f} against "
    text += f"{summary.plain.quality.value:.3f}, {low:+.3f} to {high:+.3f}, with 95% confidence for all "
    text += f"{len(summary.rows) - 1} comparisons at once; {_cost(summary, row)}."
    return text


def _cheaper(summary: Summary, row: Row, margin: float) -> str:
    text = f"{row.name} is cheaper than plain decoding: {_cost(summary, row)}; its {summary.measure} differs "
    text += f"by {row.gain_sure.low:+.3f} to {row.gain_sure.high:+.3f}, so it is not worse by more than "
    text += f"{margin:g}, with 95% confidence for all {len(summary.rows) - 1} comparisons at once."
    return text


def _cost(summary: Summary, row: Row) -> str:
    if row.times is None or row.times_sure is None:
        return "its cost could not be compared in any round"
    text = f"it costs {row.times.value:.2f} times plain's {summary.unit}"
    known = row.times_sure
    return f"{text} ({known.low:.2f} to {known.high:.2f})" if known.is_known else text


def _beside(summary: Summary, chosen: Row, better: Row | None, cheaper: Row | None) -> list[str]:
    """What the choice left aside, and settings that cannot be told from it."""
    said = []
    other = cheaper if chosen is better else better
    if other is not None and other is not chosen:
        word = "cheaper" if other is cheaper else "better"
        said.append(f"{other.name} is shown to be {word} than plain too; --goal chooses between the two.")
    if chosen is better:
        near = [
            row.name
            for row in summary.rows[1:]
            if row is not chosen and difference(chosen.scores, row.scores).low <= 0
        ]
        if near:
            said.append(f"These questions do not tell it from {', '.join(near)} in {summary.measure}.")
    return said


def _nothing(summary: Summary, margin: float) -> tuple[str, ...]:
    said = [
        "Plain decoding, because nothing else is shown to be better, or to be cheaper and not worse by more "
        f"than {margin:g}, with 95% confidence for all {len(summary.rows) - 1} comparisons at once."
    ]
    if len(summary.rows) == 1:
        return ("Plain decoding: there is nothing to compare it with.",)
    needed = rounds_needed(summary.alpha)
    if summary.plain.cost == 0:
        said.append("Plain decoding costs nothing at these prices, so nothing is cheaper.")
    elif all(row.times_sure is None or not row.times_sure.is_known for row in summary.rows[1:]):
        rounds = summary.plain.rounds
        said.append(
            f"Costs were compared in {rounds} rounds and {needed} are needed: more questions, more --turns, "
            "or less --concurrency."
        )
    low_cost = [row for row in summary.rows[1:] if row.times_sure is not None and row.times_sure.high < 1]
    if low_cost:
        row = min(low_cost, key=_cheapest)
        said.append(
            f"{row.name} is cheaper ({_cost(summary, row)}), but its {summary.measure} differs by "
            f"{row.gain_sure.low:+.3f} to {row.gain_sure.high:+.3f}: it may be worse by more than {margin:g}."
        )
    likely = max(summary.rows[1:], key=_best)
    if likely.quality.value > summary.plain.quality.value:
        said.append(
            f"{likely.name} has the highest {summary.measure} here ({likely.quality.value:.3f} against "
            f"{summary.plain.quality.value:.3f}), which {summary.questions} questions do not confirm"
            f"{_wanted(likely, summary)}."
        )
    return tuple(said)


def _wanted(row: Row, summary: Summary) -> str:
    """About how many questions would, if the difference is what it seems: intervals shrink with the root."""
    half = row.gain_sure.value - row.gain_sure.low
    if not math.isfinite(half) or row.gain.value <= 0:
        return ""
    return f"; about {math.ceil(summary.questions * (half / row.gain.value) ** 2)} might, if it is real"
