"""The histogram for what is observed at every token, judged by prometheus_client's own."""

import random

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from server.distribution import Distribution

BOUNDS = (0.001, 0.01, 0.1, 1, 10)


def exposed(registry: CollectorRegistry) -> list[str]:
    """Every sample; when a child was made is prometheus_client's own addition."""
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def test_it_is_what_prometheus_would_have_counted() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = Distribution("d_gap_seconds", "Gaps", ("method",), BOUNDS, ours)
    reference = Histogram("d_gap_seconds", "Gaps", ("method",), buckets=BOUNDS, registry=theirs)
    chance = random.Random(3)
    values = [*BOUNDS, *(10 ** chance.uniform(-4, 2) for _ in range(500))]
    for method in ("ead", "plain"):
        for value in values:
            mine.of(method).observe(value)
            reference.labels(method).observe(value)
        values = values[::3]
    assert exposed(ours) == exposed(theirs)


def test_one_observation_may_stand_for_many() -> None:
    one, many = CollectorRegistry(), CollectorRegistry()
    Distribution("d", "D", (), BOUNDS, one).of().observe(0.5, 4)
    repeated = Distribution("d", "D", (), BOUNDS, many)
    for _ in range(4):
        repeated.of().observe(0.5)
    assert exposed(one) == exposed(many)
