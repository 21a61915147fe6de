"""A Prometheus histogram that may be observed for every token: no lock and no label look-up in doing so."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Counts:
    """The observations under one set of labels. For one thread: the event loop's."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Distribution(Collector):
    """Histogram `name` over `labels`, with upper bounds `bounds` (inclusive, ascending)."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self.name, self.documentation, self.labels = name, documentation, tuple(labels)
        self.bounds = tuple(map(float, bounds))
        self.children: dict[tuple[str, ...], Counts] = {}
        registry.register(self)

    def of(self, *labels: str) -> Counts:
        """Where to observe what carries these labels; to be kept for as long as they hold."""
        if (child := self.children.get(labels)) is None:
            assert len(labels) == len(self.labels)
            child = self.children[labels] = Counts(self.bounds)
        return child

    def describe(self) -> Iterator[Metric]:
        yield HistogramMetricFamily(self.name, self.documentation, labels=self.labels)

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.labels)
        for labels, child in self.children.items():
            seen, buckets = 0, []
            for bound, count in zip((*self.bounds, float("inf")), child.counts, strict=True):
                seen += count
                buckets.append(("+Inf" if bound == float("inf") else str(bound), seen))
            family.add_metric(labels, buckets, child.total)
        yield family
