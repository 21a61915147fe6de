"""The HTTP protocol class on real sockets, in front of a small application."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn

from server.lifecycle import Server
from server.limits import ConnectionSettings
from server.protocol import MAX_HEADER, MAX_PIPELINED, BoundedProtocol

Answer = Callable[[bytes], Any]


class App:
    """Answers at once (`/` once the body is there, `/later` a second later), but `/long`, which waits until
    its client has left, and `/endless`."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.bodies: list[bytes] = []
        self.headers: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        while message.get("more_body") and scope["path"] == "/":
            message = await receive()
        if scope["path"] == "/later":
            await asyncio.sleep(1)
        if message["type"] == "http.disconnect":
            return
        self.bodies.append(message.get("body", b""))
        self.headers += [name for name, _ in scope["headers"]]
        if scope["path"] == "/long":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
            return
        if scope["path"] == "/endless":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            watch = asyncio.ensure_future(receive())
            while not watch.done():
                await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
            self.left.set()
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def running(protocol: type[BoundedProtocol], **more: Any) -> AsyncIterator[tuple[App, int]]:
    app = App()
    options: dict[str, Any] = {"ws": "none", "lifespan": "off", "log_config": None, **more}
    config = uvicorn.Config(app, port=0, http=protocol, **options)
    server = Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 (uvicorn sets a flag)
        await asyncio.sleep(0.01)
    yield app, server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


@pytest.fixture
async def served() -> AsyncIterator[tuple[App, int]]:
    async with running(BoundedProtocol) as served:
        yield served


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


CHUNKED = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("path", [b"/", b"/early"])  # `/early` has its answer before the body is there
async def test_trailers_without_end_are_cut_off(served: tuple[App, int], path: bytes) -> None:
    pieces = [CHUNKED % path, b"3\r\nabc\r\n0\r\nX: "] + [b"a" * 16384] * 3
    answer = await ends(served[1], *pieces)
    assert answer.startswith(b"HTTP/1.1 431 " if path == b"/" else b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1


async def test_trailers_are_not_taken_for_headers(served: tuple[App, int]) -> None:
    trailers = b"0\r\nAuthorization: Bearer key\r\n\r\n"
    answer = await exchange(served[1], CHUNKED % b"/" + b"3\r\nabc\r\n" + trailers)
    assert answer.endswith(b"ok")
    assert served[0].headers == [b"host", b"transfer-encoding"]


async def test_a_long_body_of_small_chunks_passes(served: tuple[App, int]) -> None:
    chunks = [b"1\r\na\r\n" * 4096] * 12
    answer = await exchange(served[1], CHUNKED % b"/", *chunks, b"0\r\n\r\n")
    assert answer.endswith(b"ok")


async def test_requests_that_come_in_pieces_behind_each_other_pass(served: tuple[App, int]) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n"
    whole = head + b"a" * 40000
    first, second = whole[:20], whole[20:] + whole[:20]
    answer = await exchange(served[1], first, second, whole[20:])
    assert answer.count(b"HTTP/1.1 200 OK") == 2


async def test_more_pipelined_requests_than_may_wait_end_the_connection(served: tuple[App, int]) -> None:
    answer = await ends(served[1], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10 * MAX_PIPELINED)
    assert answer.count(b"HTTP/1.1 200 OK") == MAX_PIPELINED + 1  # one is answered while the others wait
    assert b"HTTP/1.1 4" not in answer
    assert answer.count(b"connection: close") == 1


@pytest.mark.parametrize(
    "behind",
    [
        b"garbage\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        CHUNKED % b"/" + b"no number\r\n",
        b"GET / HTTP/1.1\r\nX: ",
    ],
    ids=["no HTTP", "no address", "a bad body", "an endless header"],
)
async def test_what_comes_behind_a_request_does_not_spoil_its_answer(
    served: tuple[App, int], behind: bytes
) -> None:
    endless = [b"a" * 16384] * 4 if behind.endswith(b"X: ") else []
    answer = await ends(served[1], b"GET /later HTTP/1.1\r\nHost: x\r\n\r\n" + behind, *endless)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.count(b"HTTP/1.1") == 1
    assert len(served[0].bodies) == 1


# ---- deadlines and caps --------------------------------------------------------------------------------

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
SLOW = ConnectionSettings(
    most=2, header_seconds=0.4, body_seconds=0.4, write_seconds=0.4, keep_alive_seconds=60
)


@pytest.fixture
async def hurried() -> AsyncIterator[tuple[App, int]]:
    async with running(BoundedProtocol.within(SLOW)) as served:
        yield served


async def ends(port: int, *data: bytes) -> bytes:
    """All that comes back until the server closes the connection, which it must do."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.ensure_future(reader.read())
    for piece in data:
        if answer.done():
            break
        writer.write(piece)
        await asyncio.sleep(0.1)
    await asyncio.wait_for(answer, 20)
    writer.close()
    return answer.result()


@pytest.mark.parametrize(
    "data",
    [
        [b""],
        [b"GET"],
        [b"GET / HTTP/1.1\r\nX: y\r\n"],
        [b"GET / HTTP/1.1\r\n", *[b"X: y\r\n"] * 20],  # a line at a time: each is in time, all are not
        [b"\r\n"] * 20,
    ],
    ids=["nothing", "a word", "no end", "drop by drop", "line ends"],
)
async def test_a_header_that_does_not_arrive_in_time_is_408(
    hurried: tuple[App, int], data: list[bytes]
) -> None:
    answer = await ends(hurried[1], *data)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in answer
    assert not hurried[0].bodies


async def test_a_second_header_has_a_deadline_too(hurried: tuple[App, int]) -> None:
    for rest in (b"\r\n", b"GET / HT"):
        answer = await ends(hurried[1], HEAD + b"abc", rest)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.count(b"HTTP/1.1 408 ") == 1


@pytest.mark.parametrize("data", [[HEAD], [HEAD, b"a"], [HEAD + b"abc" + HEAD]])
async def test_a_body_that_does_not_arrive_in_time_is_408(
    hurried: tuple[App, int], data: list[bytes]
) -> None:
    answer = await ends(hurried[1], *data)
    assert answer.count(b"HTTP/1.1 408 ") == 1
    assert answer.count(b"HTTP/1.1 200 ") == len(data[0]) // 60


async def test_an_answer_has_no_deadline(hurried: tuple[App, int]) -> None:
    """Nor has what is pipelined behind a running request."""
    app, port = hurried
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\nGET / HT")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 1.5)
    assert not app.left.is_set()
    writer.close()
    await asyncio.wait_for(app.left.wait(), 5)


async def test_a_client_that_does_not_read_is_cut_off(hurried: tuple[App, int]) -> None:
    app, port = hurried
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(app.left.wait(), 20)
    writer.close()
    assert reader


async def test_connections_beyond_the_cap_are_told_so_and_closed(hurried: tuple[App, int]) -> None:
    port = hurried[1]
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(SLOW.most)]
    for _, writer in held:
        writer.write(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(0.1)
    for _ in range(3):
        answer = await ends(port)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: " in answer
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.1)
    assert (await exchange(port, HEAD + b"abc")).endswith(b"ok")


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    brief = ConnectionSettings(keep_alive_seconds=1)
    async with running(BoundedProtocol.within(brief), timeout_keep_alive=brief.keep_alive_seconds) as (
        _,
        port,
    ):
        answer = await ends(port, HEAD + b"abc")
    assert answer.endswith(b"ok")
    assert b"408" not in answer
