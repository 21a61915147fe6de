"""Metrics of what happens in the engines' processes, which tell it when they are asked."""

from typing import Any

from prometheus_client import Counter

_counted: dict[tuple[Any, tuple[str, ...]], float] = {}


def count_up(counter: Counter, labels: tuple[str, ...], total: float) -> None:
    """Bring a counter to what an engine has counted since its start."""
    before = _counted.get((counter, labels), 0.0)
    counter.labels(*labels).inc(max(0.0, total - before))
    _counted[counter, labels] = total
