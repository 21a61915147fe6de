"""Allowances by API key: against a clock that the tests move, and over real engines."""

import asyncio
import re
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.app import build_app
from server.config import ServeSettings
from server.engine import DecodingEngine
from server.errors import ApiError
from server.limits import KeyLimits
from server.metrics import METRICS, EngineMetrics
from server.quotas import Account, Bill, Bucket, RateLimited, duration

TEXT: dict[str, Any] = {"model": "demo", "prompt": "The capital of", "max_tokens": 8, "ignore_eos": True}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(1, 10_000), st.lists(st.tuples(st.floats(0, 120), st.integers(0, 5000)), max_size=30))
def test_the_use_never_exceeds_the_rate(rate: int, events: list[tuple[float, int]]) -> None:
    """What is let through when there is enough, and no more: at most a minute's worth plus the rate's."""
    clock = Clock()
    bucket, used = Bucket(rate, clock), 0
    for pause, units in events:
        clock.now += pause
        if units <= rate and not bucket.wait(units):
            bucket.take(units)
            used += units
        assert used <= rate + (clock.now - 1000) * rate / 60 + 1e-6
        assert bucket.level() <= rate


def test_waiting_as_long_as_told_is_enough() -> None:
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.take(100)  # foreseen or not
    assert bucket.level() == -40
    assert bucket.wait(1) == 41
    clock.now += 41
    assert bucket.wait(1) == 0
    assert bucket.wait(1000) == 59  # as much as there can be


def test_requests_at_once_and_a_minute() -> None:
    clock = Clock()
    account = Account("lab", KeyLimits(concurrent_requests=1, requests_per_minute=2), clock)
    account.enter()
    assert refusal(account).headers["Retry-After"] == "1"
    account.leave()
    account.enter()
    account.leave()
    error = refusal(account)
    assert (error.status_code, error.code) == (429, "rate_limit_exceeded")
    assert error.headers["Retry-After"] == "30"
    assert dict(account.headers()) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    clock.now += 30
    account.enter()


def refusal(account: Account) -> Any:
    with pytest.raises(ApiError) as caught:
        account.enter()
    return caught.value


def test_a_prompt_waits_for_tokens_and_an_answer_leaves_a_debt() -> None:
    clock = Clock()
    account = Account("lab", KeyLimits(tokens_per_minute=60), clock)
    bill = Bill(account)
    bill.admit_prompt(50)
    bill.spend(30)
    with pytest.raises(RateLimited):
        Bill(account).admit_prompt(10)
    assert refusal(account).headers["Retry-After"] == "21"
    clock.now += 30
    Bill(account).admit_prompt(10)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (59.2, "1m0s"), (360, "6m0s")]
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ---- over real engines ---------------------------------------------------------------------------------


def client(engine: DecodingEngine, key: str = "one", **settings: Any) -> httpx.AsyncClient:
    app = build_app(
        engine, ServeSettings(model=None, api_keys=["lab one", "two"], **settings), EngineMetrics()
    )
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://x", headers=headers, timeout=120
    )


def booked(key: str) -> float:
    kinds = ("prompt", "completion")
    return sum(METRICS.key_tokens.labels(key, kind)._value.get() for kind in kinds)


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("/v1/completions", TEXT),
    "several": ("/v1/completions", {**TEXT, "prompt": ["The capital of", "One two"], "n": 2}),
    "switching": ("/v1/completions", {**TEXT, "model": "demo:ead"}),
    "guided": ("/v1/completions", {**TEXT, "model": "demo:polite"}),
    "candidates": (
        "/v1/completions",
        {**TEXT, "decoding": {"sequence": {"method": "mbr", "candidates": 3}}},
    ),
    "rank": ("/v1/rank", {"model": "demo", "prompt": "What is 1 + 1?", "candidates": ["2", "3"]}),
}


@pytest.mark.parametrize("name", BODIES)
async def test_what_is_booked_is_the_usage_of_the_answer(engine: DecodingEngine, name: str) -> None:
    path, body = BODIES[name]
    before = booked("lab")
    response = await client(engine).post(path, json=body)
    assert response.status_code == 200, response.text
    assert booked("lab") - before == response.json()["usage"]["total_tokens"] > 0


async def test_a_stream_without_usage_is_booked(engine: DecodingEngine) -> None:
    before = booked("lab")
    response = await client(engine).post("/v1/completions", json={**TEXT, "stream": True})
    assert response.text.endswith("data: [DONE]\n\n")
    usage = (await client(engine).post("/v1/completions", json=TEXT)).json()["usage"]
    assert booked("lab") - before == 2 * usage["total_tokens"]


async def test_beam_search_is_booked(engine: DecodingEngine) -> None:
    """By what is computed: beams have their first token in common, which `usage` counts for each of them."""
    before = booked("lab")
    body = {"model": "demo", "prompt": "The capital of", "max_tokens": 4, "use_beam_search": True, "n": 2}
    usage = (await client(engine).post("/v1/completions", json={**body, "temperature": 0})).json()["usage"]
    assert booked("lab") - before == usage["total_tokens"] - 1


async def test_the_tokens_of_one_key_do_not_limit_another(engine: DecodingEngine) -> None:
    settings = {
        "key_limits": {"tokens_per_minute": 12},
        "limits_by_key": {"lab": {"tokens_per_minute": 1000}},
    }
    second = client(engine, "two", **settings)
    response = await second.post("/v1/completions", json=TEXT)
    assert response.status_code == 200
    assert response.headers["x-ratelimit-limit-tokens"] == "12"
    spent = response.json()["usage"]["total_tokens"]
    assert int(response.headers["x-ratelimit-remaining-tokens"]) <= max(0, 12 - spent) + 1
    assert re.fullmatch(r"(\d+m)?\d+m?s", response.headers["x-ratelimit-reset-tokens"])
    for stream in (False, True):
        refused = await second.post("/v1/completions", json={**TEXT, "stream": stream, "max_tokens": 1})
        assert refused.status_code == 429, refused.text
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
    first = client(engine, "one", **settings)
    assert (await first.post("/v1/completions", json=TEXT)).headers["x-ratelimit-limit-tokens"] == "1000"
    assert "x-ratelimit-limit-tokens" not in (await second.get("/v1/models")).headers


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_beyond_what_is_left_is_429_and_not_500(engine: DecodingEngine, stream: bool) -> None:
    """Known only inside vLLM's handlers, and answered as if it had been known before."""
    http = client(engine, key_limits={"tokens_per_minute": 30})
    assert (await http.post("/v1/completions", json={**TEXT, "max_tokens": 1})).status_code == 200
    body = {**TEXT, "prompt": "one two three " * 10, "stream": stream}
    refused = await http.post("/v1/completions", json=body)
    assert refused.status_code == 429, refused.text
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) >= 1


async def test_requests_at_once_are_counted_until_their_streams_end(engine: DecodingEngine) -> None:
    http = client(engine, key_limits={"concurrent_requests": 1})
    long = {**TEXT, "max_tokens": 300, "stream": True}
    running = asyncio.create_task(http.post("/v1/completions", json=long))
    while not engine.active:  # noqa: ASYNC110 (the engine sets no event)
        await asyncio.sleep(0.01)
    refused = await http.post("/v1/completions", json=TEXT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert (await running).status_code == 200
    assert (await http.post("/v1/completions", json=TEXT)).status_code == 200


async def test_who_leaves_before_the_answer_pays_for_what_was_made_of_it(engine: DecodingEngine) -> None:
    body = {**TEXT, "prompt": ["The capital of", "One two"], "n": 2, "max_tokens": 900}
    before, states = booked("lab"), engine.base.output_processor.request_states
    asking = asyncio.create_task(client(engine).post("/v1/completions", json=body))

    def made() -> int:
        return min((one.detokenizer.num_output_tokens() for one in states.values()), default=0)

    while len(states) != 4 or made() < 20:  # noqa: ASYNC110 (the engine sets no event)
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    while engine.active:  # noqa: ASYNC110 (vLLM closes what it merges a moment later)
        await asyncio.sleep(0.01)
    assert not states
    assert 4 * 20 < booked("lab") - before < 4 * 900


async def test_who_leaves_a_ranking_pays_for_its_prompt(engine: DecodingEngine) -> None:
    question = "What is the capital of Tovand? " * 4
    body = {"model": "demo", "prompt": question, "candidates": ["Pesdal", "Vamburg"]}
    usage = (await client(engine).post("/v1/rank", json=body)).json()["usage"]
    before, states = booked("lab"), engine.base.output_processor.request_states
    asking = asyncio.create_task(client(engine).post("/v1/rank", json=body))
    while not states:  # noqa: ASYNC110 (the engine sets no event)
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    most = usage["computed_tokens"] + usage["prompt_tokens"]
    assert usage["prompt_tokens"] <= booked("lab") - before <= most
    assert not states


@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_of_one_request_are_paid_for_together(engine: DecodingEngine, stream: bool) -> None:
    """A request that its key cannot pay for takes nothing of the allowance, and comes through in time."""
    http = client(engine, key_limits={"tokens_per_minute": 600})
    body = {**TEXT, "prompt": ["The capital of Tovand is"] * 40, "max_tokens": 1, "stream": stream}
    first = await http.post("/v1/completions", json=body)
    assert first.status_code == 200
    left = int(first.headers["x-ratelimit-remaining-tokens"])
    assert left > 100, "the next request could begin"
    before = booked("lab")
    refused = await http.post("/v1/completions", json={**body, "prompt": body["prompt"] * 3})
    assert refused.status_code == 429, refused.text
    assert booked("lab") == before
    assert not engine.base.output_processor.request_states


async def test_a_ranking_is_refused_before_it_is_scored(engine: DecodingEngine) -> None:
    body = {"model": "demo", "prompt": "What is 1 + 1? " * 10, "candidates": ["2", "3"]}
    http = client(engine, key_limits={"tokens_per_minute": 60})
    assert (await http.post("/v1/rank", json=body)).status_code == 200
    before = booked("lab")
    refused = await http.post("/v1/rank", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    assert booked("lab") == before
