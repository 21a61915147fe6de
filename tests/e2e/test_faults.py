"""Clients that do not read, or do not end; a cache too small for all."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deploy.loadtest.servers import free_port
from tests.e2e.client import CHAT, TEXT, Http, connection, raw_post, together, wait_for
from tests.e2e.process import COMMAND, ROOT, START_SECONDS, Decant, environment, serving, survivors

MIB = 1 << 20
READERS = 3
LONG = {**TEXT, "model": "demo:small", "n": 16, "temperature": 1, "ignore_eos": True, "max_tokens": 1900}
POOL = 66  # blocks of 32 tokens: one for each request of the whole context, vLLM's own, and one more


@contextmanager
def unread(http: Http) -> Iterator[list[socket.socket]]:
    """Streams whose readers stopped after the first bytes, each with a small window."""
    body = json.dumps({**LONG, "stream": True}).encode()
    with ExitStack() as stack:
        readers = []
        for _ in range(READERS):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(60)
            sock.connect(http.address)
            sock.sendall(raw_post("/v1/completions", body))
            assert sock.recv(16).startswith(b"HTTP/1.1 200")
            readers.append(sock)
        yield readers


def test_slow_readers_cost_bounded_memory_and_hold_up_nobody(http: Http, server: Decant) -> None:
    process = psutil.Process(server.pid)
    http.post_ok("text", {**LONG, "max_tokens": 100})
    before = process.memory_info().rss
    with unread(http) as readers:
        wait_for(lambda: http.running("small") == 0, 120, "the engine has finished what nobody reads")
        assert http.in_flight() == READERS, "the answers are still to be read"
        assert process.memory_info().rss - before < 64 * MIB
        for _ in range(4):
            assert http.post_ok("chat", CHAT)["choices"]
        for sock in readers[1:]:
            sock.close()
        wait_for(lambda: http.in_flight() == 1, 20, "those who left are forgotten")
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            part = readers[0].recv(1 << 16)
            assert part, received[-200:]
            received += part
    assert b"data: [DONE]" in received[-200:], "the one who came back got all of it"
    assert received.count(b'"finish_reason":"length"') == 16


def test_half_open_connections_hold_up_nobody(http: Http) -> None:
    whole = raw_post("/v1/completions", json.dumps(TEXT).encode())
    halves = [b"", whole[:20], whole[: whole.index(b"\r\n\r\n") + 4], whole[:-5]]
    with ExitStack() as stack:
        socks = [stack.enter_context(connection(http.address, half)) for half in halves * 8]
        began = time.monotonic()
        assert all(together([lambda: http.post_ok("chat", CHAT)] * 4))
        assert time.monotonic() - began < 30
        assert http.in_flight() <= len(halves) * 8
        assert len(socks) == 32
    assert http.post_ok("chat", CHAT)["choices"]
    wait_for(lambda: http.in_flight() == 0, 20, "nothing is left of them")


def test_a_cache_for_one_request_serves_several_in_turn(tmp_path: Path) -> None:
    """Sequences that together need many times the pool are preempted, not stuck."""
    with serving(tmp_path / "log", "--engine-args", f"num_gpu_blocks_override={POOL}") as server:
        body = {**TEXT, "n": 3, "temperature": 1, "ignore_eos": True, "max_tokens": 1500}
        post = [lambda: httpx.post(f"{server.url}/v1/completions", json=body, timeout=300)] * 2
        for response in together(post):
            assert response.status_code == 200, response.text
            assert [choice["finish_reason"] for choice in response.json()["choices"]] == ["length"] * 3
        metrics = httpx.get(f"{server.url}/metrics").text
        preempted = [line for line in metrics.splitlines() if line.startswith("vllm:num_preemptions_total{")]
        assert sum(float(line.rsplit(" ", 1)[1]) for line in preempted) > 0, "the pool was too large"


def test_a_cache_too_small_for_one_request_is_said_at_the_start(tmp_path: Path) -> None:
    server = Decant(tmp_path / "log", ["--engine-args", "num_gpu_blocks_override=20"])
    try:
        assert server.exit_status(START_SECONDS) == 2
        *above, last = server.output().splitlines()
        assert last.startswith("decant: engine "), last
        assert "root cause above" in last, last  # which the engine's own process wrote
        assert any("KV cache is needed" in line for line in above), server.tail()
    finally:
        server.stop()


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_full_disk_under_the_log_fails_no_request(style: str) -> None:
    port = free_port()
    flags = ["--port", str(port), "--log-format", style, "--log-level", "debug", "--vllm-log-level", "info"]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [str(COMMAND), "serve", *flags],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=full,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, f"it exited with {process.returncode}"
        try:
            return httpx.get(f"{url}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    children: list[psutil.Process] = []
    try:
        wait_for(ready, START_SECONDS, "the server is ready")
        children = psutil.Process(process.pid).children(recursive=True)
        for body in (TEXT, {**TEXT, "model": "demo:ead"}, {**TEXT, "max_tokens": -1}, {**TEXT, "n": 0}):
            expected = 200 if body.get("max_tokens", 1) > 0 and body.get("n", 1) > 0 else 400
            answer: Any = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
            assert answer.status_code == expected, answer.text
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not survivors(children)
    finally:
        process.kill()
        for child in survivors(children, 0):
            child.kill()
