"""/metrics for all replicas: one scrape, whichever replica answers it, and every sample says whose it is."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError, unavailable

logger = logging.getLogger("decant.server")

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


class Incomplete(Exception):
    """The share of a replica that lives is missing."""


def shares(
    told: Iterable[tuple[str, str] | BaseException], gone: tuple[type[BaseException], ...]
) -> dict[str, str]:
    """Expositions by replica.

    Args:
        told: what each replica answered, its id and its exposition, or the error that came instead.
        gone: errors that say that a replica cannot be reached; it has no share then.

    Errors: Incomplete for any other error, and if no replica is left.
    """
    texts: dict[str, str] = {}
    for answer in told:
        if not isinstance(answer, BaseException):
            replica, text = answer
            texts[replica] = text
        elif not isinstance(answer, gone):
            raise Incomplete("a replica could not tell its metrics") from answer
    if not texts:
        raise Incomplete("no replica can be reached")
    return texts


def _incomplete() -> ApiError:
    return unavailable("A replica did not tell its metrics.", "metrics_incomplete")


class AllReplicas:
    """Answers GET /metrics with `collect()` where the application itself would have answered it with 200.

    The application is asked first, so that keys, methods and errors stay its own. Where `collect` raises
    TimeoutError or Incomplete the answer is a 503: counters without one replica's share would look as if it
    had died.
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
            except (TimeoutError, Incomplete):
                logger.warning("the metrics of all replicas are incomplete", exc_info=True)
                await _incomplete().response()(scope, receive, send)
                return
            headers = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode()))
            await send({**start, "headers": headers})
            await send({"type": "http.response.body", "body": body})
