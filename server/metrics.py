"""Prometheus metrics: Decant's own, and those of every engine side by side.

vLLM keeps its metrics in the process's default registry and erases the previous engine's when the next one is
built. Here each engine has a registry of its own, and `/metrics` shows them under one more label,
`decant_engine`.
"""

import functools
from collections.abc import Iterable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from decoders.report import Report
from server.distribution import Distribution

# From models of a few million parameters on a core to long reasoning of very large ones.
TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
ANSWER_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
MERGE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)  # seconds
PER_STEP = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 12, 16)  # tokens


class Metrics:
    """Decant's own metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "HTTP requests answered", "route", "method", "status")
        self.seconds = self._histogram("request_seconds", "Time to the end of the answer", "route")
        self.first = self._histogram("first_token_seconds", "Time to the first streamed event", "route")
        self.in_flight = self._gauge("requests_in_flight", "Requests that run or wait")
        self.connections = self._gauge("connections", "Open connections")
        self.queued = self._gauge("requests_queued", "Requests that wait for a slot")
        self.rejected = self._counter("requests_rejected", "Requests refused for load", "reason")
        self.rate_limited = self._counter(
            "rate_limited", "Requests refused for the limits of their API key", "key", "limit"
        )
        self.key_tokens = self._counter("key_tokens", "Tokens booked on API keys", "key", "kind")
        self.disconnected = self._counter(
            "requests_disconnected", "Requests whose client left early", "route"
        )
        self.slot_wait = self._distribution(
            "slot_wait_seconds", "Time in line for a slot", (), ANSWER_SECONDS
        )
        self.engine_queue = self._distribution(
            "engine_queue_seconds",
            "Time an engine let a request wait before its first step; requests that one engine runs directly",
            *(("method",), ANSWER_SECONDS),
        )
        self.first_token = self._distribution(
            "method_first_token_seconds",
            "Time from a prompt's admission to its first token",
            *(("method",), ANSWER_SECONDS),
        )
        self.inter_token = self._distribution(
            "inter_token_seconds",
            "Time between tokens of one choice; of whole answers the mean, as often as there are gaps",
            *(("method",), TOKEN_SECONDS),
        )
        self.answer = self._distribution(
            "answer_seconds",
            "Time from a prompt's admission to its answer's end",
            ("method",),
            ANSWER_SECONDS,
        )
        self.asked = self._counter("decoding_requests", "Requests that a method decodes", "layer", "method")
        self.decoded = self._counter(
            "decoding_tokens", "Tokens delivered that a method decoded", "layer", "method"
        )
        self.draft_tokens = self._counter(
            "draft_tokens", "Draft tokens, verified and accepted", "engine", "method", "kind"
        )
        self.cache_slots = self._counter(
            "cache_prompt_slots", "KV slots of prompts, as given and as a method keeps them", "method", "kind"
        )
        self.tokens = self._counter("tokens", "Tokens decoded for answers", "method", "engine")
        self.switches = self._counter("switches", "Changes of engine within answers", "method")
        self.recomputed = self._counter(
            "recomputed_tokens", "Tokens computed again because an answer changed engines", "method"
        )
        self.candidates = self._counter("candidates", "Candidate answers, sampled or given", "method")
        self.candidate_tokens = self._counter(
            "candidate_tokens", "Tokens of sampled candidates, and computed for scores", "method", "kind"
        )
        self.engine_up = self._gauge("engine_up", "1 while the engine lives", "engine")
        self.engine_condition = self._gauge(
            "engine_condition", "1 for the condition the engine is in", "engine", "condition"
        )
        self.engine_requests = self._gauge(
            "engine_requests", "Requests given to an engine that have not ended", "engine"
        )
        self.tasks = self._gauge("tasks", "Tasks of the server's event loop")
        self.engine_failures = self._counter(
            "engine_failures", "Engines that died or hung", "engine", "reason"
        )
        self.engine_restarts = self._counter("engine_restarts", "Starts of engines that were lost", "engine")
        self.speculation_tokens_per_step = self._histogram(
            "speculation_tokens_per_step", "Tokens a request got per engine step", "engine", buckets=PER_STEP
        )
        self.speculation_drafting = self._gauge(
            "speculation_drafting", "1 if the last step drafted", "engine"
        )
        self.speculation_chosen = self._gauge(
            "speculation_chosen", "1 where the governor speculates, by rows in the batch", "engine", "rows"
        )
        self.speculation_rate = self._gauge(
            "speculation_tokens_per_second",
            "Tokens per second that the governor measured",
            *("engine", "rows", "way"),
        )
        self.speculation_switches = self._counter(
            "speculation_switches", "Times the governor changed its mind", "engine"
        )
        self.speculation_steps = self._counter(
            "speculation_steps", "Steps with drafts, without, and of trials", "engine", "kind"
        )
        self.speculation_stop = self._gauge(
            "speculation_stop", "The bound under which adaptive drafts end", "engine"
        )

        self.kv_blocks_freed = self._counter(
            "kv_blocks_freed", "KV blocks that compression gave back", "engine"
        )
        self.kv_merge_seconds = self._histogram(
            "kv_merge_seconds", "Time that one compression of a request's cache took", "engine", buckets=MERGE
        )

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"decant_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"decant_{name}", help_text, labels, registry=self.registry)

    def _distribution(
        self, name: str, help_text: str, labels: tuple[str, ...], bounds: tuple[float, ...]
    ) -> Distribution:
        return Distribution(f"decant_{name}", help_text, labels, bounds, self.registry)

    def _histogram(
        self, name: str, help_text: str, *labels: str, buckets: tuple[float, ...] = SECONDS
    ) -> Histogram:
        return Histogram(f"decant_{name}", help_text, labels, buckets=buckets, registry=self.registry)


METRICS = Metrics()


def count_candidates(method: str, report: Report, candidates: int) -> None:
    """Book a request's candidates, and what they cost by its report."""
    layer = report.layer("sequence")
    METRICS.candidates.labels(method).inc(candidates)
    for kind, count in report.spent.items():
        METRICS.candidate_tokens.labels(method, kind).inc(count)
    for engine, count in layer.get("tokens", {}).items():
        METRICS.tokens.labels(method, engine).inc(count)


class EngineMetrics(Collector):
    """The registries of all engines as one: families of one name merged, told apart by `decant_engine`."""

    def __init__(self) -> None:
        self.registries: dict[str, CollectorRegistry] = {}

    def registry(self, engine: str) -> CollectorRegistry:
        return self.registries.setdefault(engine, CollectorRegistry())

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for engine, registry in self.registries.items():
            for family in registry.collect():
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    merged.samples.append(sample._replace(labels={**sample.labels, "decant_engine": engine}))
        yield from families.values()


def stat_logger(registry: CollectorRegistry) -> type:
    """vLLM's Prometheus logger and its parts, writing to `registry`."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    metric_classes = {
        "_gauge_cls": functools.partial(Gauge, registry=registry),
        "_counter_cls": functools.partial(Counter, registry=registry),
        "_histogram_cls": functools.partial(Histogram, registry=registry),
    }

    def bound(cls: type) -> type:
        return type(cls.__name__, (cls,), {k: v for k, v in metric_classes.items() if hasattr(cls, k)})

    parts = ("_spec_decoding_cls", "_kv_connector_cls", "_ec_connector_cls", "_perf_metrics_cls")
    bound_parts = {part: bound(getattr(PrometheusStatLogger, part)) for part in parts}
    return type("EngineLogger", (bound(PrometheusStatLogger),), bound_parts)


def exposition(engines: EngineMetrics) -> bytes:
    """The text of `/metrics`."""
    merged = CollectorRegistry()
    merged.register(engines)
    registries: Iterable[CollectorRegistry] = (METRICS.registry, merged, REGISTRY)
    return b"".join(generate_latest(registry) for registry in registries)
