"""SIGTERM: what runs may finish until the deadline, nothing new begins, the process exits with 0."""

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.client import CHAT, JSON, TEXT, wait_for
from tests.e2e.process import Decant, serving, survivors

CHOICES = 2
TOKENS = 1500
DEADLINE = 1
GRACE = 10.0  # seconds for the last events, the engines and the process to end


class Exchange:
    """Requests that run while the server is told to stop."""

    def __init__(self, server: Decant, pool: ThreadPoolExecutor) -> None:
        self.url = server.url
        self.pool = pool

    def whole(self, path: str, body: dict[str, Any]) -> "Future[httpx.Response]":
        return self.pool.submit(httpx.post, self.url + path, json=body, timeout=120)

    def stream(self, path: str, body: dict[str, Any]) -> "Future[list[str]]":
        def lines() -> list[str]:
            with httpx.stream(
                "POST", self.url + path, json={**body, "stream": True}, timeout=120
            ) as response:
                assert response.status_code == 200
                return [line.removeprefix("data: ") for line in response.iter_lines() if line]

        return self.pool.submit(lines)

    def in_flight(self) -> float:
        text = httpx.get(f"{self.url}/metrics").text
        return float(text.split("\ndecant_requests_in_flight ")[1].split("\n")[0])


def ending(lines: list[str]) -> tuple[set[str], int]:
    """Finish reasons of a stream's choices and the number of its events."""
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert not any("error" in event for event in events)
    return {c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]}, len(events)


def refuses(server: Decant) -> bool:
    """Whether a new request is turned away: by a closed port, or by 503."""
    try:
        response = httpx.post(
            f"{server.url}/v1/completions", content=json.dumps(TEXT), headers=JSON, timeout=10
        )
    except httpx.TransportError:
        return True
    return response.status_code == 503 and response.json()["error"]["code"] == "draining"


def wait_until_refusing(server: Decant) -> None:
    wait_for(lambda: refuses(server), 5, "new requests are turned away")


@pytest.fixture
def stopped(tmp_path: Path) -> Any:
    """A function that starts a server, gives it work, ends it with SIGTERM and checks its exit."""

    def run(seconds: int, work: Callable[[Exchange], list[Any]], within: float) -> list[Any]:
        with (
            serving(tmp_path / "log", "--drain-seconds", str(seconds)) as server,
            ThreadPoolExecutor(8) as pool,
        ):
            children = server.descendants()
            exchange = Exchange(server, pool)
            for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)):
                assert exchange.whole(path, body).result().status_code == 200  # what is slow the first time
            futures = work(exchange)
            wait_for(lambda: exchange.in_flight() == len(futures), 20, "all requests run")
            began = time.monotonic()
            server.terminate()
            wait_until_refusing(server)
            assert server.process.poll() is None, "gone although requests were running"
            assert server.exit_status(within) == 0, server.tail()
            assert time.monotonic() - began < within
            assert not survivors(children)
            assert "Traceback" not in server.output(), server.tail()
            return [future.result(5) for future in futures]

    return run


def test_running_requests_finish(stopped: Any) -> None:
    long = {"n": CHOICES, "temperature": 1, "ignore_eos": True, "max_tokens": TOKENS}
    text, chat = {**TEXT, **long}, {**CHAT, **long}

    def work(exchange: Exchange) -> list[Any]:
        return [
            exchange.stream("/v1/completions", text),
            exchange.stream("/v1/chat/completions", chat),
            exchange.whole("/v1/completions", text),
            exchange.whole("/v1/chat/completions", chat),
        ]

    streamed_text, streamed_chat, whole_text, whole_chat = stopped(90, work, 90 + GRACE)
    assert ending(streamed_text)[0] == {"length"}
    assert ending(streamed_chat)[0] == {"length"}
    for response in (whole_text, whole_chat):
        assert response.status_code == 200
        assert response.json()["usage"]["completion_tokens"] == CHOICES * TOKENS
        assert [choice["finish_reason"] for choice in response.json()["choices"]] == ["length"] * CHOICES


def test_what_runs_past_the_deadline_is_aborted(stopped: Any) -> None:
    long = {"n": 16, "temperature": 1, "ignore_eos": True, "max_tokens": 1900}

    def work(exchange: Exchange) -> list[Any]:
        return [
            exchange.stream("/v1/completions", {**TEXT, **long}),
            exchange.stream("/v1/chat/completions", {**CHAT, **long}),
            exchange.whole("/v1/completions", {**TEXT, **long}),
            exchange.whole("/v1/chat/completions", {**CHAT, **long}),
        ]

    streamed_text, streamed_chat, whole_text, whole_chat = stopped(DEADLINE, work, DEADLINE + GRACE)
    for lines in (streamed_text, streamed_chat):
        reasons, events = ending(lines)
        assert reasons == {"abort"}
        assert events > 16
    for response in (whole_text, whole_chat):
        assert response.status_code == 200
        assert {choice["finish_reason"] for choice in response.json()["choices"]} == {"abort"}
        assert 0 < response.json()["usage"]["completion_tokens"] < 16 * 1900
