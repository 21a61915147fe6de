"""bfloat16 on the CPU and Ctrl-C, and signals while the engines load."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.e2e.client import CHAT, wait_for
from tests.e2e.process import Decant, serving, survivors


def test_a_bfloat16_server_answers_and_drains_on_ctrl_c(tmp_path: Path) -> None:
    """On a CPU with AMX an unprepared worker dies of SIGILL; and Ctrl-C reaches the whole process group."""
    with (
        serving(tmp_path / "log", "--engine-args", "dtype=bfloat16") as server,
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=server.url, timeout=120) as http,
    ):
        answer = http.post("/v1/chat/completions", json=CHAT).json()["choices"][0]
        assert answer["message"]["content"]
        children = server.descendants()
        long = {**CHAT, "max_tokens": 600, "ignore_eos": True, "n": 4, "temperature": 1.0}
        running = pool.submit(httpx.post, f"{server.url}/v1/chat/completions", json=long, timeout=120)
        while "decant_requests_in_flight 1.0" not in http.get("/metrics").text:
            assert not running.done()
        os.killpg(server.pid, signal.SIGINT)
        choices = running.result().json()["choices"]
        assert [choice["finish_reason"] for choice in choices] == ["length"] * 4
        assert server.exit_status(30) == 0
        assert not survivors(children)


def test_a_server_told_to_stop_while_it_loads_stops_at_once(tmp_path: Path) -> None:
    server = Decant(tmp_path / "log", [])
    try:
        wait_for(lambda: "loading" in server.output(), 60, "the engines load")
        wait_for(lambda: bool(server.descendants()), 60, "an engine's process has started")
        children = server.descendants()
        server.terminate()
        assert server.exit_status(5) == 128 + signal.SIGTERM
        assert not survivors(children)
    finally:
        server.stop()
