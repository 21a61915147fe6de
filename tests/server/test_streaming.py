import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import anyio

from decoders.report import Report
from server.metrics import METRICS
from server.streaming import DONE, EventStream, Relay, error_of


def chunk(**fields: Any) -> str:
    return f"data: {json.dumps(fields, separators=(',', ':'))}\n\n"


TOKEN = chunk(choices=[{"delta": {"content": 'say "finish_reason":"stop"'}, "finish_reason": None}])
LAST = chunk(choices=[{"delta": {}, "finish_reason": "stop"}])
USAGE = chunk(choices=[], usage={"total_tokens": 3})


async def events(*items: str) -> AsyncGenerator[str, None]:
    for item in items:
        yield item


def done(event: str) -> asyncio.Future[str]:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.set_result(event)
    return future


async def relayed(report: Report | None, first: str, *rest: str) -> list[str]:
    relay = Relay(done(first), events(*rest), report, lambda body: {"mapped": body["error"]["code"]})
    out = [event async for event in relay.events()]
    assert relay.complete
    return out


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
    reached: list[str] = []

    async def source() -> AsyncGenerator[str, None]:
        yield TOKEN
        reached.append("second")
        yield LAST
        yield DONE

    stream = Relay(done(TOKEN), source(), report(), dict).events()
    assert [await anext(stream), await anext(stream)] == [TOKEN, TOKEN]
    assert reached == []


async def test_an_error_event_is_mapped() -> None:
    broken = chunk(error={"code": 500, "message": "MARKER"})
    assert error_of(broken) == {"error": {"code": 500, "message": "MARKER"}}
    assert error_of(TOKEN) is None
    assert await relayed(report(), TOKEN, broken, DONE) == [TOKEN, 'data: {"mapped": 500}\n\n', DONE]


async def test_a_stream_that_never_starts_still_ends_its_source_and_gives_back_its_slot() -> None:
    ended: list[str] = []

    async def source() -> AsyncGenerator[str, None]:
        try:
            yield TOKEN
            await anyio.sleep_forever()
        finally:
            ended.append("source")

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await anyio.sleep_forever()

    events = source()
    first = await anext(events)
    held = AsyncExitStack()
    held.callback(ended.append, "slot")
    stream = EventStream(Relay(done(first), events, None, dict), held)
    left = METRICS.disconnected.labels("/stream")
    before = left._value.get()
    with anyio.fail_after(5):
        await stream({"type": "http", "path": "/stream", "asgi": {"spec_version": "2.3"}}, gone, send)
    assert ended == ["source", "slot"]
    assert left._value.get() == before + 1


async def test_a_client_that_leaves_before_the_first_event_ends_the_source() -> None:
    ended: list[str] = []

    async def source() -> AsyncGenerator[str, None]:
        try:
            await anyio.sleep_forever()
            yield TOKEN
        finally:
            ended.append("source")

    async def gone() -> dict[str, str]:
        await anyio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    events = source()
    held = AsyncExitStack()
    held.callback(ended.append, "slot")
    stream = EventStream(Relay(asyncio.ensure_future(anext(events)), events, None, dict), held)
    with anyio.fail_after(5):
        await stream({"type": "http", "path": "/stream", "asgi": {"spec_version": "2.3"}}, gone, send)
    assert ended == ["source", "slot"]
