"""An engine that dies or hangs is started again, or ends the server; no request is lost without a word."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.client import ON_SMALL, TEXT, wait_for
from tests.e2e.load import KINDS, Load, Outcome
from tests.e2e.process import Decant, serving, survivors

RETRY = {"engine_restarting", "engine_dead"}
HANGS = 25  # seconds; less, and the step that compiles log-probabilities would count on a busy machine
BACK = 60.0  # seconds in which a lost engine is to be up again


def engine_of(server: Decant, name: str) -> psutil.Process:
    """The core process of an engine: the one whose processor time moves when it is asked for much."""
    cores = server.engine_cores()
    if len(cores) == 1:
        return cores[0]
    before = [core.cpu_times().user for core in cores]
    ask(server, name, max_tokens=600, n=8, temperature=1, ignore_eos=True)
    spent = [core.cpu_times().user - start for core, start in zip(cores, before, strict=True)]
    return cores[spent.index(max(spent))]


def ask(server: Decant, engine: str, **more: Any) -> httpx.Response:
    decoding = {"sequence": {"method": "plain", "engine": engine}}
    body = {**TEXT, "decoding": decoding, **more}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)


def status(server: Decant, path: str) -> int:
    return httpx.get(f"{server.url}{path}", timeout=10).status_code


def metric(server: Decant, line: str) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=20).text
    return sum(float(one.rsplit(" ", 1)[1]) for one in text.splitlines() if one.startswith(line))


def check(outcomes: list[Outcome], engine: str) -> None:
    """Each request ended whole, or with an error that says to try again; the engine's own with the error."""
    for one in outcomes:
        assert not one.broken, one
        if one.complete:
            assert set(one.reasons) == {"length"}, one
            continue
        assert one.error is not None, one
        assert one.error["code"] in RETRY, one
        assert engine in one.error["message"], one
        assert one.streamed or one.status == 503, one
    lost = {one.kind for one in outcomes if not one.complete}
    assert lost & {engine, "ead"}, outcomes  # what runs on it alone may just have ended
    kept = {one.kind for one in outcomes if one.complete}
    assert {"base", "small"} - {engine} <= kept, outcomes


def ranking_is_answered_or_refused(server: Decant, lost: str) -> None:
    """Candidates are scored by the base; without it a ranking ends like any other request that needs it."""
    body = {"model": "demo", "prompt": "What is the capital of Tovand?", "candidates": ["Pesdal", "Vamburg"]}
    answer = httpx.post(f"{server.url}/v1/rank", json=body, timeout=60)
    if lost == "base":
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_restarting")
        assert int(answer.headers["Retry-After"]) >= 1
    else:
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def restarting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    log: Path = tmp_path_factory.mktemp("restarting") / "log"
    flags = ("--restart-engines", "2", "--hang-seconds", str(HANGS), "--death-grace-seconds", "1")
    with serving(log, *flags) as server:
        every_kind(server)  # what is slow the first time
        yield server


def every_kind(server: Decant) -> None:
    """Requests of all kinds are answered."""
    for kind, body in KINDS.items():
        answer = httpx.post(f"{server.url}/v1/completions", json={**body, "max_tokens": 8}, timeout=60)
        assert answer.status_code == 200, (kind, answer.text)


@pytest.mark.parametrize("engine", ["small", "base"])
def test_a_killed_engine_comes_back_while_the_other_serves(restarting: Decant, engine: str) -> None:
    other = "base" if engine == "small" else "small"
    core, before = engine_of(restarting, engine), metric(restarting, "decant_engine_restarts_total")
    load = Load(restarting.url)
    wait_for(lambda: {"base", "small", "ead"} <= load.begun, 30, "the streams flow")
    core.kill()
    killed = time.monotonic()
    wait_for(lambda: status(restarting, "/ready") == 503, 5, "/ready says so")
    assert status(restarting, "/health") == 200, "the server is to live on"
    refused = ask(restarting, engine)
    assert refused.status_code == 503, refused.text
    assert refused.json()["error"]["code"] == "engine_restarting"
    assert int(refused.headers["Retry-After"]) >= 1
    assert ask(restarting, other).status_code == 200
    ranking_is_answered_or_refused(restarting, lost=engine)
    assert metric(restarting, f'decant_engine_condition{{condition="restarting",engine="{engine}"}}') == 1
    wait_for(lambda: status(restarting, "/ready") == 200, BACK, "/ready again")
    assert time.monotonic() - killed < BACK
    check(load.outcomes(60), engine)
    assert ask(restarting, engine).status_code == 200
    every_kind(restarting)
    assert metric(restarting, "decant_engine_restarts_total") == before + 1
    assert metric(restarting, "decant_requests_in_flight ") == 0
    for name in ("running", "waiting"):
        assert metric(restarting, f"vllm:num_requests_{name}") == 0
    assert not core.is_running()


def test_a_hung_engine_is_ended_and_comes_back(restarting: Decant) -> None:
    core, cores = engine_of(restarting, "small"), len(restarting.engine_cores())
    os.kill(core.pid, signal.SIGSTOP)
    time.sleep(HANGS + 1)
    assert httpx.get(f"{restarting.url}/health").json()["engines"]["small"] == "up", "nothing waits for it"
    response = ask(restarting, "small", max_tokens=8)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_restarting"
    wait_for(lambda: status(restarting, "/ready") == 200, BACK, "/ready again")
    assert ask(restarting, "small").status_code == 200
    assert not core.is_running(), "the hung process is still there"
    assert len(restarting.engine_cores()) == cores
    assert metric(restarting, 'decant_engine_failures_total{engine="small",reason="hung"}') == 1
    assert "engine small hangs: no step for" in restarting.output()


def test_an_engine_that_keeps_dying_ends_the_server(restarting: Decant) -> None:
    """The tests above have used up what the small engine is allowed within the window."""
    everything = restarting.descendants()
    engine_of(restarting, "small").kill()
    assert restarting.exit_status(30) == 1, restarting.tail()
    assert not survivors(everything)
    assert "giving up" in restarting.output()


def test_a_hung_engine_without_restarts_ends_the_server(tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--hang-seconds", str(HANGS), "--death-grace-seconds", "4") as server:
        everything = server.descendants()
        os.kill(engine_of(server, "small").pid, signal.SIGSTOP)
        response = httpx.post(f"{server.url}/v1/completions", json={**TEXT, "decoding": ON_SMALL}, timeout=60)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_hung"
        health = httpx.get(f"{server.url}/health")
        assert health.status_code == 503
        assert "'small' hangs" in health.json()["error"]["message"]
        assert httpx.head(f"{server.url}/health").status_code == 503
        assert server.exit_status(30) == 1
        assert not survivors(everything)
