"""The load test's criteria fail where they must."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.fuzz.__main__ import answers, memory
from deploy.loadtest.client import Raw
from deploy.loadtest.criteria import Evidence, accounts, judge
from deploy.loadtest.memory import growth, resident
from deploy.loadtest.mix import CHAT, KINDS, drawn
from deploy.loadtest.report import machine
from deploy.loadtest.servers import Server
from deploy.loadtest.stages import Measured, Stage, p95
from deploy.loadtest.stress import Plan, measure
from deploy.loadtest.stress_report import write
from deploy.loadtest.traffic import Outcome, Unread, read

GOOD = Outcome("run-1", "chat, whole", CHAT, "steady", at=0.0, seconds=1.0, status=200)
REFUSED = replace(GOOD, id="run-2", status=503, seconds=0.01, error="503: overloaded")
BOOKS = Counter({(CHAT, "200"): 1, (CHAT, "503"): 1})
LINES = Counter({("run-1", 200): 1, ("run-2", 503): 1})


def failing(
    *outcomes: Outcome, sent: int = 2, books: Counter | None = BOOKS, lines: Counter = LINES
) -> list[str]:
    return [verdict.asks for verdict in accounts(list(outcomes), sent, books, lines) if not verdict.holds]


def test_answers_and_refusals_are_in_order() -> None:
    assert failing(GOOD, REFUSED) == []


def test_a_lost_request_is_seen() -> None:
    assert "every request sent has one outcome" in failing(GOOD, REFUSED, sent=3)
    assert "every request sent has one outcome" in failing(GOOD, REFUSED, REFUSED)


def test_the_servers_books_must_agree() -> None:
    assert failing(GOOD, REFUSED, books=BOOKS + Counter({(CHAT, "499"): 1})) == [
        "the server counted the same, by route and status"
    ]
    assert failing(GOOD, REFUSED, lines=LINES - Counter({("run-2", 503): 1})) == [
        "the server's log has each id once, with its status"
    ]


def test_books_that_cannot_be_read_do_not_agree() -> None:
    assert failing(GOOD, REFUSED, books=None) == ["the server counted the same, by route and status"]


def test_any_other_answer_is_an_error() -> None:
    broken = replace(GOOD, id="run-2", status=500, error="500: internal_error")
    books, lines = (
        Counter({(CHAT, "200"): 1, (CHAT, "500"): 1}),
        Counter({("run-1", 200): 1, ("run-2", 500): 1}),
    )
    assert failing(GOOD, broken, books=books, lines=lines) == ["no unexpected errors"]


def stream(*events: object, done: bool = True) -> Outcome:
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + (
        "data: [DONE]\n\n" if done else ""
    )
    parts = [(2.0, text.encode())]
    return read(
        Unread("run-1", KINDS[0], "steady", {"stream": True}, 200, None, Raw(1.0, parts), 3.0), start=0.5
    )


TEXT = {"choices": [{"delta": {"content": "a"}, "finish_reason": None}]}
END = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def test_a_whole_stream_has_its_times() -> None:
    outcome = stream(TEXT, TEXT, END)
    assert outcome.ok
    assert (outcome.at, outcome.seconds, outcome.first, outcome.gaps) == (0.5, 2.0, 1.0, (0.0,))


@pytest.mark.parametrize(
    "outcome",
    [
        stream(TEXT, END, done=False),
        stream(TEXT),
        stream(END, {"error": {"code": "engine_dead"}}),
        stream(),
    ],
    ids=["no [DONE]", "no finish_reason", "an error at the end", "nothing"],
)
def test_a_stream_that_is_not_whole_is_an_error(outcome: Outcome) -> None:
    assert not outcome.ok
    assert outcome.error is not None


def test_a_load_within_capacity_is_accepted_and_answered_in_time() -> None:
    stage = Stage("ramp", 10.0, rate=1.0)
    outcomes = [replace(GOOD, id=str(i), at=float(i), seconds=float(i + 1) / 10) for i in range(10)]
    measured = Measured(stage, outcomes, began=0.0)
    assert measured.keeps_up()
    assert p95([measured]) == 1.0
    assert not Measured(stage, [*outcomes[1:], REFUSED], began=0.0).keeps_up()
    assert not Measured(stage, [replace(o, seconds=20.0) for o in outcomes], began=0.0).keeps_up()


@pytest.mark.parametrize(
    ("refused", "bursts", "holds"),
    [(0, 1, [True, True]), (1, 0, [False, True]), (0, 2, [True, False])],
    ids=["bursts may be refused now and then", "a steady load may not", "nor too many of bursts"],
)
def test_a_load_well_within_capacity_is_accepted(refused: int, bursts: int, holds: list[bool]) -> None:
    def stage(name: str, refused: int, burstiness: float = 1.0) -> Measured:
        found = [replace(REFUSED if i < refused else GOOD, id=f"{name}-{i}") for i in range(100)]
        return Measured(Stage(name, 10.0, rate=10.0, burstiness=burstiness), found, began=0.0)

    quiet = stage("quiet", 0)
    stages = {
        "calm": [quiet, quiet],
        "steady": [stage("steady", refused), stage("bursts", bursts, burstiness=0.3)],
        "capacity": [quiet],
        "overload": [stage("overload", 50)],
    }
    verdicts = judge(Evidence(stages, [], [], 0, Counter(), None, []))
    assert [verdict.holds for verdict in verdicts if "capacity" in verdict.asks][:1] == holds[:1]
    assert [verdict.holds for verdict in verdicts if "bursts" in verdict.asks] == holds[1:]


def test_every_stretch_of_requests_holds_the_mix() -> None:
    deal = sum(kind.share for kind in KINDS)
    requests = drawn(2 * deal, seed=3)
    for half in (requests[:deal], requests[deal:]):
        assert Counter(kind.name for kind, _ in half) == {kind.name: kind.share for kind in KINDS}
    assert drawn(2 * deal, seed=3) == requests
    assert drawn(2 * deal, seed=4) != requests


# ---- a server that is lost -------------------------------------------------------------------------------


@contextmanager
def answering(times: int) -> Iterator[str]:
    """The address of a server that answers so many requests with an empty 200, and is gone then."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    def serve() -> None:
        for _ in range(times):
            server.handle_request()
        server.server_close()

    server = HTTPServer(("127.0.0.1", 0), Empty)
    server.timeout = 30
    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    thread.join()


async def test_a_server_that_dies_under_load_is_reported(tmp_path: Path) -> None:
    with answering(1) as url:  # its metrics before the run
        evidence = await measure(url, None, None, Plan.of(0.01))
    assert (evidence.stages, evidence.counted) == ({}, None)
    assert evidence.sent == len(evidence.outcomes) > 0
    verdicts = {verdict.asks: verdict.holds for verdict in judge(evidence)}
    assert verdicts["the server answers to the end"] is False
    assert verdicts["no unexpected errors"] is False
    around = {**machine(), "minutes": 0.01, "flags": ""}
    assert "| the server answers to the end |" in write(tmp_path, around, evidence, judge(evidence))
    assert json.loads((tmp_path / "stress.json").read_text(encoding="utf-8"))["stages"]


def test_a_fuzzed_server_that_is_gone_or_hangs_is_not_alive(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        with answering(1) as url:
            server = Server("decant", url, process, tmp_path / "log")
            assert answers(server)
        assert not answers(server), "the process lives, but nobody answers"
        before = memory(server)
        assert before["server"] > 0
        process.kill()
        process.wait()
        assert not answers(server)
        assert memory(server) == {}
    assert growth(before, {}) < 0
    assert growth({}, {}) == 0


def test_memory_is_told_beside_a_child_that_has_just_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
    assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    assert resident(os.getpid())["server"] > 0
    child.wait()
