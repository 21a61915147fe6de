"""A client that leaves takes its work with it."""

import json
from typing import Any

import pytest

from tests.e2e.client import PATHS, PROMPT, QUESTION, Http, connection, raw_post, wait_for

CHOICES = 16
SECONDS = 5.0  # far less than the abandoned work would take


def endless(route: str, model: str, tokens: int, streamed: bool) -> dict[str, Any]:
    """A request that keeps its engine busy for as long as the context allows."""
    asked = {"messages": QUESTION} if route == "chat" else {"prompt": PROMPT}
    return {
        "model": model,
        "n": CHOICES,
        "max_tokens": tokens,
        "temperature": 1,
        "ignore_eos": True,
        "stream": streamed,
        **asked,
    }


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("model", "engine"), [("demo", "base"), ("demo:small", "small")])
@pytest.mark.parametrize("route", ["chat", "text"])
def test_leaving_frees_the_engine(
    http: Http, context_length: int, route: str, model: str, engine: str, streamed: bool
) -> None:
    tokens = context_length - 100
    before = http.metric("vllm:generation_tokens_total", decant_engine=engine)
    body = json.dumps(endless(route, model, tokens, streamed)).encode()
    with connection(http.address, raw_post(PATHS[route], body)) as sock:
        if streamed:
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
        wait_for(lambda: http.running(engine) == CHOICES, 10, "the request runs")
        assert http.in_flight() == 1
    wait_for(lambda: http.running(engine) == 0, SECONDS, "the engine is idle again")
    wait_for(lambda: http.in_flight() == 0, SECONDS, "the slot is free again")
    spent = http.metric("vllm:generation_tokens_total", decant_engine=engine) - before
    assert spent < CHOICES * tokens / 2, "the work went on to its end"
    assert http.metric("vllm:kv_cache_usage_perc", decant_engine=engine) == 0


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
def test_leaving_is_counted(http: Http, context_length: int, streamed: bool) -> None:
    def count() -> float:
        return http.metric("decant_requests_disconnected_total", route="/v1/completions")

    before = count()
    body = json.dumps(endless("text", "demo", context_length - 100, streamed)).encode()
    with connection(http.address, raw_post("/v1/completions", body)):
        wait_for(lambda: http.running("base") == CHOICES, 10, "the request runs")
    wait_for(lambda: http.in_flight() == 0, SECONDS, "the slot is free again")
    wait_for(lambda: count() == before + 1, 1, "the client that left is counted")


def test_leaving_before_the_body_is_complete_holds_nothing(http: Http) -> None:
    request = raw_post("/v1/completions", b'{"model": "demo"', {"Content-Length": "5000"})
    with connection(http.address, request):
        assert http.in_flight() == 0
    assert http.in_flight() == 0
    assert http.get("/health").status_code == 200


def test_those_who_stay_get_their_answers(http: Http, context_length: int) -> None:
    stay = {"model": "demo", "prompt": PROMPT, "temperature": 0, "max_tokens": 60, "ignore_eos": True}
    alone = http.post_ok("text", stay)["choices"][0]["text"]
    body = json.dumps(endless("text", "demo", context_length - 100, True)).encode()
    lines = http.stream_lines("text", stay)
    first = next(lines)
    with connection(http.address, raw_post("/v1/completions", body)) as sock:
        sock.recv(4096)
    events = [json.loads(line.removeprefix("data: ")) for line in [first, *lines] if "[DONE]" not in line]
    assert "".join(choice["text"] for event in events for choice in event["choices"]) == alone
    wait_for(lambda: http.in_flight() == 0, SECONDS, "all slots are free")
