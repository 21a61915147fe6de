import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from decoders.report import Report
from server.disconnect import Departure
from server.errors import ApiError
from server.metrics import METRICS
from server.streaming import DONE, HEADER_WAITS, EventStream, Relay, error_of


def chunk(**fields: Any) -> str:
    return f"data: {json.dumps(fields, separators=(',', ':'))}\n\n"


TOKEN = chunk(choices=[{"delta": {"content": 'say "finish_reason":"stop"'}, "finish_reason": None}])
LAST = chunk(choices=[{"delta": {}, "finish_reason": "stop"}])
USAGE = chunk(choices=[], usage={"total_tokens": 3})


async def events(*items: str) -> AsyncGenerator[str, None]:
    for item in items:
        yield item


class Client:
    """What a client of the stream receives."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.left = asyncio.Event()

    async def send(self, message: Any) -> None:
        self.messages.append(message)

    async def receive(self) -> dict[str, str]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    def writes(self) -> list[str]:
        return [m["body"].decode() for m in self.messages if m["type"] == "http.response.body"]

    def events(self) -> list[str]:
        return [f"{event}\n\n" for event in "".join(self.writes()).split("\n\n")[:-1]]

    async def take(self, relay: Relay, held: AsyncExitStack | None = None) -> None:
        stream = EventStream(relay, held or AsyncExitStack(), Departure(self.receive, "/stream"))
        with anyio.fail_after(5):
            await stream({"type": "http", "path": "/stream"}, self.receive, self.send)


def relay(source: AsyncGenerator[str, None], report: Report | None = None) -> Relay:
    amend = None if report is None else lambda body: {**body, "decoding": report.layers}
    return Relay(source, amend, True, lambda body: {"mapped": body["error"]["code"]})


async def relayed(report: Report | None, *items: str) -> list[str]:
    client = Client()
    await client.take(relay(events(*items), report))
    assert client.messages[0]["type"] == "http.response.start"
    assert (b"content-type", b"text/event-stream; charset=utf-8") in client.messages[0]["headers"]
    assert [message["more_body"] for message in client.messages[1:]][-1] is False
    assert all(message["more_body"] for message in client.messages[1:-1])
    return client.events()


def report() -> Report:
    report = Report()
    report.add_tokens("base", 3)
    return report


async def test_without_a_report_the_stream_is_untouched() -> None:
    stream = [TOKEN, TOKEN, LAST, USAGE, DONE]
    assert await relayed(None, *stream) == stream


async def test_the_report_rides_on_the_last_event_only() -> None:
    for ending in ([LAST], [LAST, USAGE], [LAST, LAST]):
        out = await relayed(report(), TOKEN, *ending, DONE)
        assert out[0] == TOKEN
        assert out[-1] == DONE
        assert [("decoding" in json.loads(event[6:])) for event in out[:-1]] == [False] * len(ending) + [True]
        assert json.loads(out[-2][6:])["decoding"] == {"sequence": {"tokens": {"base": 3}}}
        without = json.loads(out[-2][6:])
        del without["decoding"]
        assert without == json.loads(ending[-1][6:])


async def test_tokens_are_not_held_back() -> None:
    reached = asyncio.Event()

    async def source() -> AsyncGenerator[str, None]:
        yield TOKEN
        yield TOKEN
        await reached.wait()
        yield LAST
        yield DONE

    client = Client()
    taking = asyncio.create_task(client.take(relay(source(), report())))
    for _ in range(10):
        await asyncio.sleep(0)
    assert client.events() == [TOKEN, TOKEN]
    reached.set()
    await taking
    assert len(client.events()) == 4


@pytest.mark.parametrize("single", [True, False])
async def test_the_role_and_the_end_leave_with_their_neighbours(single: bool) -> None:
    role = chunk(choices=[{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    source = events(role, TOKEN, TOKEN, LAST, USAGE, DONE)
    client = Client()
    await client.take(Relay(source, None, single, dict))
    end = [LAST + USAGE + DONE] if single else [LAST, USAGE, DONE]
    assert client.writes() == [role + TOKEN, TOKEN, *end]


async def test_a_header_does_not_wait_long_for_the_first_event() -> None:
    gate = asyncio.Event()

    async def source() -> AsyncGenerator[str, None]:
        await gate.wait()
        yield DONE

    client = Client()
    taking = asyncio.create_task(client.take(relay(source())))
    await asyncio.sleep(HEADER_WAITS / 4)
    assert len(client.messages) == 1
    await asyncio.sleep(HEADER_WAITS * 2)
    assert client.messages[1:] == [{"type": "http.response.body", "body": b"", "more_body": True}]
    gate.set()
    await taking
    assert client.writes() == ["", DONE]


async def test_an_error_event_is_mapped() -> None:
    broken = chunk(error={"code": 500, "message": "MARKER"})
    assert error_of(broken) == {"error": {"code": 500, "message": "MARKER"}}
    assert error_of(TOKEN) is None
    assert await relayed(report(), TOKEN, broken, DONE) == [TOKEN, 'data: {"mapped": 500}\n\n', DONE]


@pytest.mark.parametrize("before", [0, 1])
async def test_a_client_that_leaves_ends_the_source_and_gives_back_the_slot(before: int) -> None:
    ended: list[str] = []

    async def source() -> AsyncGenerator[str, None]:
        try:
            for _ in range(before):
                yield TOKEN
            await anyio.sleep_forever()
        finally:
            ended.append("source")

    held = AsyncExitStack()
    held.callback(ended.append, "slot")
    client, left = Client(), METRICS.disconnected.labels("/stream")
    count = left._value.get()
    stream = relay(source())
    await asyncio.sleep(0)
    client.left.set()
    await client.take(stream, held)
    assert ended == ["source", "slot"]
    assert left._value.get() == count + 1


async def test_a_stream_nobody_takes_can_be_closed() -> None:
    ended: list[str] = []

    async def source() -> AsyncGenerator[str, None]:
        try:
            yield TOKEN
            await anyio.sleep_forever()
        finally:
            ended.append("source")

    stream = relay(source())
    assert await stream.first == TOKEN
    await stream.close()
    assert ended == ["source"]


async def test_a_source_that_fails_fails_the_response() -> None:
    async def source() -> AsyncGenerator[str, None]:
        yield TOKEN
        raise RuntimeError("broken")

    client = Client()
    with pytest.raises(RuntimeError, match="broken"):
        await client.take(relay(source()))
    assert client.writes() == [TOKEN]


async def test_a_source_that_ends_before_it_began_is_an_error() -> None:
    stream = relay(events())  # which nobody has opened
    with anyio.fail_after(5), pytest.raises(ApiError, match="before it began"):
        await stream.task
