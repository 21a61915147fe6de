"""A dead engine: its requests fail, /health says so for a while, the process ends with an error."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.client import CHAT, JSON, TEXT, wait_for
from tests.e2e.process import Decant, serving, survivors

GRACE = 5


@pytest.fixture(scope="module")
def doomed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    log: Path = tmp_path_factory.mktemp("doomed") / "log"
    with serving(log, "--death-grace-seconds", str(GRACE)) as server:
        yield server


def busiest(cores: list[psutil.Process]) -> psutil.Process:
    before = [core.cpu_times().user for core in cores]
    time.sleep(0.4)
    spent = [core.cpu_times().user - start for core, start in zip(cores, before, strict=True)]
    return cores[spent.index(max(spent))]


def read_stream(server: Decant, begun: "Future[None]") -> list[dict[str, Any]]:
    """All events of a stream that would run for long, [DONE] left out."""
    body = {**TEXT, "model": "demo:small", "n": 16, "temperature": 1, "ignore_eos": True, "max_tokens": 1900}
    events = []
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json={**body, "stream": True}, timeout=60
    ) as stream:
        assert stream.status_code == 200
        for line in stream.iter_lines():
            if not begun.done():
                begun.set_result(None)
            if line and line != "data: [DONE]":
                events.append(json.loads(line.removeprefix("data: ")))
    return events


def test_a_killed_engine_ends_its_requests_and_the_server(doomed: Decant) -> None:
    everything = doomed.descendants()
    cores = doomed.engine_cores()
    assert len(cores) == 2, [process.cmdline() for process in everything]
    begun: Future[None] = Future()
    whole_body = {
        **CHAT,
        "model": "demo:small",
        "n": 16,
        "temperature": 1,
        "ignore_eos": True,
        "max_tokens": 1900,
    }
    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(read_stream, doomed, begun)
        begun.result(20)
        whole = pool.submit(httpx.post, f"{doomed.url}/v1/chat/completions", json=whole_body, timeout=60)
        busiest(cores).kill()
        killed = time.monotonic()
        wait_for(lambda: httpx.get(f"{doomed.url}/health").status_code == 503, 3, "/health says so")
        check_refusals(doomed)
        events, response = stream.result(GRACE), whole.result(GRACE)
    check_error(events[-1])
    assert all("error" not in event for event in events[:-1])
    assert len(events) > 1
    assert response.status_code == 503
    check_error(response.json())
    assert doomed.exit_status(GRACE + 15) == 1
    assert time.monotonic() - killed >= GRACE - 1, "gone before a probe could see it"
    assert not survivors(everything), "orphans"
    assert "small died" in doomed.output()


def check_refusals(server: Decant) -> None:
    """During the grace, probes and new requests are told what is the matter."""
    for path in ("/health", "/ready"):
        response = httpx.get(f"{server.url}{path}")
        assert response.status_code == 503
        check_error(response.json())
    for stream in (False, True):
        content = json.dumps({**TEXT, "stream": stream})
        response = httpx.post(f"{server.url}/v1/completions", content=content, headers=JSON, timeout=10)
        assert response.status_code == 503
        check_error(response.json(), ("engine_dead", "draining"))
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'decant_engine_up{engine="small"} 0.0' in metrics
    assert 'decant_engine_up{engine="base"} 1.0' in metrics


def check_error(body: dict[str, Any], codes: tuple[str, ...] = ("engine_dead",)) -> None:
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["code"] in codes
    assert body["error"]["type"] == "server_error"
    assert "Traceback" not in body["error"]["message"]
