"""The HTTP protocol class on real sockets, in front of a small application."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
import uvicorn

from server.lifecycle import Server
from server.protocol import MAX_HEADER, BoundedProtocol

Answer = Callable[[bytes], Any]


class App:
    """Answers at once, except `/long`, which answers when its client has left."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        self.bodies.append(message.get("body", b""))
        if scope["path"] == "/long":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def served() -> AsyncIterator[tuple[App, int]]:
    app = App()
    config = uvicorn.Config(app, port=0, http=BoundedProtocol, ws="none", lifespan="off", log_config=None)
    server = Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 (uvicorn sets a flag)
        await asyncio.sleep(0.01)
    yield app, server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


async def exchange(port: int, *data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionError):
        for piece in data:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
    answer = await asyncio.wait_for(reader.read(1 << 16), 5)
    writer.close()
    return answer


async def test_a_header_within_the_bound_passes(served: tuple[App, int]) -> None:
    line = b"X: " + b"a" * (MAX_HEADER // 2)
    assert (await exchange(served[1], b"GET / HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n")).endswith(b"ok")


async def test_a_header_without_end_is_cut_off(served: tuple[App, int]) -> None:
    pieces = [b"GET / HTTP/1.1\r\nHost: x\r\nX: "] + [b"a" * 16384] * 3
    answer = await exchange(served[1], *pieces)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"header_too_large"' in answer


async def test_what_is_not_http_is_told_so_in_openais_shape(served: tuple[App, int]) -> None:
    answer = await exchange(served[1], b"garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"invalid_http"' in answer


async def test_kept_alive_and_pipelined_requests_are_all_answered(served: tuple[App, int]) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    answer = await exchange(served[1], request * 3, request)
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert served[0].bodies == [b"abc"] * 4


async def test_a_client_that_leaves_is_noticed_behind_a_pipelined_request(served: tuple[App, int]) -> None:
    app, port = served
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()
    await asyncio.wait_for(app.left.wait(), 5)
    assert len(app.bodies) == 1
