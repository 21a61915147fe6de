"""The load: requests sent, answers kept as they came and read afterwards."""

import asyncio
import json
import random
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from deploy.loadtest.servers import SERVED, Failure, Server

ROUND_SECONDS = 600.0
WORDS = [
    "river",
    "stone",
    "lamp",
    "garden",
    "winter",
    "bread",
    "letter",
    "window",
    "copper",
    "harbour",
    "music",
    "road",
    "paper",
    "summer",
    "engine",
    "cloud",
    "market",
    "silver",
    "forest",
    "table",
    "bridge",
    "morning",
    "story",
    "village",
    "candle",
    "ocean",
    "number",
    "apple",
    "shadow",
    "field",
]


@dataclass(frozen=True)
class Cell:
    """One way of asking: so many requests at once, streamed or not."""

    concurrency: int
    streaming: bool

    def __str__(self) -> str:
        return f"{'streaming' if self.streaming else 'whole'}, concurrency {self.concurrency}"


@dataclass(frozen=True)
class Raw:
    """One answer as it came: when it was asked for, and what arrived when. It is parsed after the round."""

    asked: float
    parts: list[tuple[float, bytes]]


@dataclass(frozen=True)
class Answer:
    """One answer, read. Times are seconds after the request; `arrivals` are those of tokens with text."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    arrivals: tuple[float, ...] = ()


def prompts(cell: Cell, round_number: int, count: int) -> list[str]:
    """The prompts of one round: always the same ones for it, and different ones in every other round."""
    source = random.Random(f"{cell}/{round_number}")
    return [
        f"{index + round_number * count}. Tell me about the " + " and the ".join(source.choices(WORDS, k=8))
        for index in range(count)
    ]


def body(prompt: str, max_tokens: int, streaming: bool) -> bytes:
    """The JSON body of one request."""
    request: dict[str, Any] = {
        "model": SERVED,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    if streaming:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(request).encode()


async def ask(client: httpx.AsyncClient, content: bytes) -> Raw:
    """Send one request and keep what comes back with the time of every read. Errors: Failure if not 200."""
    asked = time.perf_counter()
    parts: list[tuple[float, bytes]] = []
    async with client.stream("POST", "/v1/chat/completions", content=content) as response:
        async for part in response.aiter_raw():
            parts.append((time.perf_counter(), part))  # noqa: PERF401
        if response.status_code != 200:
            text = b"".join(part for _, part in parts)[:500].decode(errors="replace")
            raise Failure(f"a request was answered with {response.status_code}: {text}")
    return Raw(asked, parts)


async def ask_all(url: str, bodies: Sequence[bytes], concurrency: int) -> list[Raw]:
    """All requests, `concurrency` at a time over kept-alive connections; the answers in the same order."""
    answers: list[Raw | None] = [None] * len(bodies)
    waiting = iter(enumerate(bodies))

    async def work(client: httpx.AsyncClient) -> None:
        for index, content in waiting:
            answers[index] = await ask(client, content)

    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    headers = {"Content-Type": "application/json"}
    async with (
        asyncio.timeout(ROUND_SECONDS),
        httpx.AsyncClient(
            base_url=url, limits=limits, headers=headers, timeout=None, trust_env=False
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(concurrency):
            group.create_task(work(client))
    return [answer for answer in answers if answer is not None]


def send(server: Server, bodies: Sequence[bytes], concurrency: int) -> list[Raw]:
    """`ask_all`, with one Failure in place of a group of errors."""
    try:
        return asyncio.run(ask_all(server.url, bodies, concurrency))
    except* (httpx.HTTPError, TimeoutError, Failure) as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise Failure(f"{server.name}: {first or type(first).__name__}") from first


# ---- reading answers -------------------------------------------------------------------------------------


def read_whole(raw: Raw) -> Answer:
    """A plain JSON answer."""
    value = json.loads(b"".join(part for _, part in raw.parts))
    usage = value["usage"]
    return Answer(
        text=value["choices"][0]["message"]["content"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        seconds=raw.parts[-1][0] - raw.asked,
    )


def events(raw: Raw) -> Iterator[tuple[float, bytes]]:
    """The data of a stream's events, each with the time of the read that completed it."""
    ends: list[int] = []
    total = 0
    for _, part in raw.parts:
        total += len(part)
        ends.append(total)
    stream = b"".join(part for _, part in raw.parts)
    start = 0
    while (end := stream.find(b"\n\n", start)) >= 0:
        if stream.startswith(b"data: ", start):
            yield raw.parts[bisect_left(ends, end + 2)][0], stream[start + 6 : end]
        start = end + 2


def read_stream(raw: Raw) -> Answer:
    """A streamed answer. Errors: Failure if it holds an error, lacks its usage or is not ended by [DONE]."""
    pieces: list[str] = []
    arrivals: list[float] = []
    usage: dict[str, int] | None = None
    done = False
    for at, data in events(raw):
        if data == b"[DONE]":
            done = True
            continue
        event = json.loads(data)
        if "error" in event:
            raise Failure(f"a stream ended with an error: {data[:500].decode(errors='replace')}")
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            if piece := choice["delta"].get("content"):
                pieces.append(piece)
                arrivals.append(at - raw.asked)
    if not done or usage is None:
        raise Failure("a stream was incomplete: no usage or no [DONE]")
    return Answer(
        text="".join(pieces),
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        seconds=raw.parts[-1][0] - raw.asked,
        arrivals=tuple(arrivals),
    )
