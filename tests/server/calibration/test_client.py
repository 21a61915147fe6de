"""What a client makes of a server's statuses: wait, refused, or the end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from server.calibration.client import Client, question
from server.calibration.errors import CalibrationError, Refused

Reply = tuple[int, dict[str, str], dict[str, Any]]
GOOD: Reply = (200, {}, {"choices": []})


def error(status: int, code: str = "x", **headers: str) -> Reply:
    return status, headers, {"error": {"message": "Say it otherwise.", "param": "top", "code": code}}


@contextmanager
def answering(*replies: Reply) -> Iterator[tuple[str, list[Any]]]:
    """A server that gives these replies in order, and what it was asked."""
    left, asked = list(replies), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, headers, body = left.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


async def test_a_full_server_and_a_used_up_key_are_waited_for() -> None:
    busy = [error(503, "overloaded", Retry_After="0"), error(429, Retry_After="0"), GOOD]
    with answering(*busy) as (url, asked):
        async with Client(url, "k", 1, own=True) as client:
            reply = await client.post("/v1/x", {"a": 1})
    assert reply.body == GOOD[2]
    assert asked == [{"a": 1}] * 3


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_what_is_refused_is_told_from_what_fails(status: int) -> None:
    with answering(error(status)) as (url, _):
        async with Client(url, "k", 1, own=True) as client:
            with pytest.raises(Refused, match=f"line 3: .* HTTP {status}, top: Say it otherwise"):
                await client.post("/v1/x", {}, "line 3: ")


@pytest.mark.parametrize("reply", [error(401), error(429), error(500), error(503, "engine_dead")])
async def test_what_fails_is_no_refusal(reply: Reply) -> None:
    with answering(reply) as (url, asked):
        async with Client(url, "k", 1, own=True) as client:
            with pytest.raises(CalibrationError) as failure:
                await client.post("/v1/x", {})
    assert not isinstance(failure.value, Refused)
    assert len(asked) == 1


def test_a_question_goes_where_it_belongs() -> None:
    chat = [{"role": "user", "content": "q"}]
    assert question("q", as_text=False) == ("/v1/chat/completions", {"messages": chat})
    assert question("q", as_text=True) == ("/v1/completions", {"prompt": "q"})
    assert question(chat, as_text=True) == ("/v1/chat/completions", {"messages": chat})
