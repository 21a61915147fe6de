"""The load test's criteria fail where they must."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from deploy.loadtest.client import Raw
from deploy.loadtest.criteria import accounts
from deploy.loadtest.mix import CHAT, KINDS, drawn
from deploy.loadtest.stages import Measured, Stage, p95
from deploy.loadtest.traffic import Outcome, Unread, read

GOOD = Outcome("run-1", "chat, whole", CHAT, "steady", at=0.0, seconds=1.0, status=200)
REFUSED = replace(GOOD, id="run-2", status=503, seconds=0.01, error="503: overloaded")
BOOKS = Counter({(CHAT, "200"): 1, (CHAT, "503"): 1})
LINES = Counter({("run-1", 200): 1, ("run-2", 503): 1})


def failing(*outcomes: Outcome, sent: int = 2, books: Counter = BOOKS, lines: Counter = LINES) -> list[str]:
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


def test_every_stretch_of_requests_holds_the_mix() -> None:
    deal = sum(kind.share for kind in KINDS)
    requests = drawn(2 * deal, seed=3)
    for half in (requests[:deal], requests[deal:]):
        assert Counter(kind.name for kind, _ in half) == {kind.name: kind.share for kind in KINDS}
    assert drawn(2 * deal, seed=3) == requests
    assert drawn(2 * deal, seed=4) != requests
