"""Sends the requests of a stage, in a closed or an open loop, and accounts for every one by its id.

Arrivals are those of vLLM's benchmark client (`vllm.benchmarks.serve.get_request`): Poisson, bursts by a
gamma distribution. Its request functions are not used: to them a stream that ends in an error is a success,
and they keep neither an answer's status nor the time of a refusal.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

import aiohttp

from deploy.loadtest.client import Raw, events
from deploy.loadtest.mix import Body, Kind

ANSWER_SECONDS = 300.0
REFUSALS = frozenset({429, 503})


@dataclass(frozen=True)
class Outcome:
    """What became of one request. Times are seconds; `status` is 0 if no answer came.

    Attributes:
        at: when it was sent, after the run's start.
        first: to the first event of a stream that holds text.
        gaps: between events with text.
        error: what was wrong with it, None for a complete answer.
    """

    id: str
    kind: str
    route: str
    stage: str
    at: float
    seconds: float
    status: int
    first: float | None = None
    gaps: tuple[float, ...] = ()
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.status == 200 and self.error is None

    @property
    def refused(self) -> bool:
        return self.status in REFUSALS


@dataclass(frozen=True)
class Unread:
    """An answer as it came, or what came in its place."""

    id: str
    kind: Kind
    stage: str
    body: Body
    status: int
    error: str | None
    raw: Raw
    ended: float


class Traffic:
    """The client of one run: sends, keeps every outcome."""

    def __init__(self, session: aiohttp.ClientSession, run: str) -> None:
        from vllm.benchmarks.serve import get_request  # takes seconds to load, so not while anything is timed

        self.arrivals = get_request
        self.session = session
        self.run = run
        self.start = time.perf_counter()
        self.sent = 0
        self.unread: list[Unread] = []
        self.outcomes: list[Outcome] = []

    async def send(self, kind: Kind, body: Body, stage: str) -> None:
        """Send one request and book what comes of it, whatever that is."""
        self.sent += 1
        request_id = f"{self.run}-{self.sent}"
        content = json.dumps(body).encode()
        asked = time.perf_counter()
        status, parts, error = 0, [], None
        try:
            headers = {"X-Request-Id": request_id, "Content-Type": "application/json"}
            async with self.session.post(kind.route, data=content, headers=headers) as response:
                status = response.status
                async for part in response.content.iter_any():
                    parts.append((time.perf_counter(), part))  # noqa: PERF401
        except (aiohttp.ClientError, TimeoutError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        self.unread.append(
            Unread(request_id, kind, stage, body, status, error, Raw(asked, parts), time.perf_counter())
        )

    def settle(self) -> None:
        """Read what has come; done between stages, since reading would delay the times of others."""
        self.outcomes += [read(answer, self.start) for answer in self.unread]
        self.unread.clear()

    async def closed(
        self, requests: Iterable[tuple[Kind, Body]], workers: int, seconds: float, stage: str
    ) -> None:
        """`workers` clients, each of which sends its next request when it has the last one's answer."""
        waiting = iter(requests)
        until = time.perf_counter() + seconds

        async def work() -> None:
            for kind, body in waiting:
                if time.perf_counter() >= until:
                    return
                await self.send(kind, body, stage)

        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())

    async def open(
        self, requests: Sequence[tuple[Kind, Body]], rate: float, stage: str, burstiness: float = 1.0
    ) -> None:
        """Send at `rate` a second whatever the answers do; return when all have come.

        Args:
            burstiness: 1 for a Poisson process; less for bursts (gamma-distributed intervals of that shape).
        """
        async with asyncio.TaskGroup() as group:
            async for (kind, body), _ in self.arrivals(list(requests), rate, burstiness):
                group.create_task(self.send(kind, body, stage))


@asynccontextmanager
async def traffic(url: str, run: str, key: str | None = None) -> AsyncIterator[Traffic]:
    """A client with as many connections as it needs.

    Args:
        url: the server's.
        run: the beginning of every request's id.
        key: an API key, where the server asks for one.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(
        url,
        headers=headers,
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        read_bufsize=1 << 20,
    ) as session:
        yield Traffic(session, run)


def read(answer: Unread, start: float) -> Outcome:
    """What an answer amounts to; `start` is when the run began."""
    raw, error = answer.raw, answer.error
    first, gaps = None, ()
    if error is None:
        streamed = answer.status == 200 and bool(answer.body.get("stream"))
        error = _wrong_with_stream(raw) if streamed else _wrong_with(answer.status, raw)
        if streamed and error is None:
            first, gaps = _pace(raw)
    return Outcome(
        id=answer.id,
        kind=answer.kind.name,
        route=answer.kind.route,
        stage=answer.stage,
        at=raw.asked - start,
        seconds=answer.ended - raw.asked,
        status=answer.status,
        first=first,
        gaps=gaps,
        error=error,
    )


def _wrong_with(status: int, raw: Raw) -> str | None:
    content = b"".join(part for _, part in raw.parts)
    try:
        value = json.loads(content)
    except ValueError:
        return f"{status} with a body that is no JSON"
    if status == 200:
        return (
            None if value.get("choices") or value.get("results") else "an answer without choices or results"
        )
    return f"{status}: {value.get('error', {}).get('code')}"


def _wrong_with_stream(raw: Raw) -> str | None:
    done, finished, text = False, False, False
    for _, data in events(raw):
        if data == b"[DONE]":
            done = True
            continue
        event = json.loads(data)
        if "error" in event:
            return f"a stream ended with an error: {event['error'].get('code')}"
        finished = finished or any(choice.get("finish_reason") for choice in event["choices"])
        text = text or bool(event["choices"])
    if not (done and finished and text):
        return "a stream was incomplete: no finish_reason or no [DONE]"
    return None


def _pace(raw: Raw) -> tuple[float | None, tuple[float, ...]]:
    """Seconds to the first event with text, and between such events."""
    arrivals = []
    for at, data in events(raw):
        if data == b"[DONE]":
            continue
        choices = json.loads(data)["choices"]
        if any(choice.get("text") or choice.get("delta", {}).get("content") for choice in choices):
            arrivals.append(at)
    if not arrivals:
        return None, ()
    return arrivals[0] - raw.asked, tuple(late - early for early, late in pairwise(arrivals))
