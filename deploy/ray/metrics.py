"""/metrics for all replicas: one scrape, whichever replica answers it, and every sample says whose it is."""

from collections.abc import Awaitable, Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError, unavailable

LABEL = "replica"


class Replicas(Collector):
    """Expositions of several replicas as one, told apart by the label `replica`."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for replica, text in self.texts.items():
            for family in text_string_to_metric_families(text):
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    merged.samples.append(sample._replace(labels={**sample.labels, LABEL: replica}))
        yield from families.values()


def together(texts: Mapping[str, str]) -> bytes:
    """The exposition of all replicas, from theirs by replica."""
    registry = CollectorRegistry()
    registry.register(Replicas(texts))
    return generate_latest(registry)


def _incomplete() -> ApiError:
    return unavailable("A replica did not tell its metrics in time.", "metrics_incomplete")


class AllReplicas:
    """Answers GET /metrics with `collect()` where the application itself would have answered it with 200.

    The application is asked first, so that keys, methods and errors stay its own. Where `collect` raises
    TimeoutError the answer is a 503: counters without one replica's share would look as if it had died.
    """

    def __init__(self, app: ASGIApp, collect: Callable[[], Awaitable[bytes]]) -> None:
        self.app = app
        self.collect = collect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/metrics" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        start: Message | None = None

        async def hold(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] == 200:
                start = message
            elif start is None:
                await send(message)

        await self.app(scope, receive, hold)
        if start is not None:
            try:
                body = await self.collect()
            except TimeoutError:
                await _incomplete().response()(scope, receive, send)
                return
            headers = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode()))
            await send({**start, "headers": headers})
            await send({"type": "http.response.body", "body": body})
