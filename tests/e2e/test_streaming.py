"""A streamed answer is the whole answer, in pieces."""

from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.client import CHAT, GOOD, ON_SMALL, PROMPT, TEXT, Http

ROUTES = ["chat", "text"]
SAMPLED = {"temperature": 1, "seed": 5, "max_tokens": 24}


def text_in(route: str, choice: dict[str, Any]) -> str:
    part = choice.get("message", choice.get("delta")) if route == "chat" else choice
    return str(part.get("content" if route == "chat" else "text") or "")


def collected(route: str, events: list[dict[str, Any]]) -> dict[int, tuple[str, str]]:
    """Text and finish reason of every choice."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for choice in (choice for event in events for choice in event["choices"]):
        index = choice["index"]
        assert index not in reasons, "a delta after the choice has finished"
        texts[index] = texts.get(index, "") + text_in(route, choice)
        if choice["finish_reason"] is not None:
            reasons[index] = choice["finish_reason"]
    assert texts.keys() == reasons.keys()
    return {index: (texts[index], reasons[index]) for index in texts}


@pytest.mark.parametrize("options", [{"temperature": 0}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("model", ["demo", "demo:small"])
@pytest.mark.parametrize("route", ROUTES)
def test_text_and_finish_reason_are_the_same(
    http: Http, route: str, model: str, options: dict[str, Any]
) -> None:
    body = {**GOOD[route], "model": model, **options}
    whole = http.post_ok(route, body)["choices"]
    expected = {choice["index"]: (text_in(route, choice), choice["finish_reason"]) for choice in whole}
    assert collected(route, http.stream(route, body)) == expected


@pytest.mark.parametrize("route", ROUTES)
def test_every_choice_of_n_is_the_same(http: Http, route: str) -> None:
    body = {**GOOD[route], **SAMPLED, "n": 2}
    whole = http.post_ok(route, body)["choices"]
    expected = {choice["index"]: (text_in(route, choice), choice["finish_reason"]) for choice in whole}
    assert sorted(expected) == [0, 1]
    assert collected(route, http.stream(route, body)) == expected


@pytest.mark.parametrize("route", ROUTES)
def test_usage_is_the_same(http: Http, route: str) -> None:
    body = {**GOOD[route], **SAMPLED, "n": 2}
    usage = http.post_ok(route, body)["usage"]
    events = http.stream(route, {**body, "stream_options": {"include_usage": True}})
    assert events[-1]["choices"] == []
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [events[-1]["usage"][key] for key in counts] == [usage[key] for key in counts]
    assert all(event.get("usage") is None for event in events[:-1])
    assert all(event.get("usage") is None for event in http.stream(route, body))


def test_chat_logprobs_are_the_same(http: Http) -> None:
    body = {**CHAT, "logprobs": True, "top_logprobs": 2}
    whole = http.post_ok("chat", body)["choices"][0]["logprobs"]["content"]
    choices = [choice for event in http.stream("chat", body) for choice in event["choices"]]
    streamed = [entry for choice in choices for entry in (choice["logprobs"] or {"content": []})["content"]]
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in whole]
    expected = [top["logprob"] for entry in whole for top in entry["top_logprobs"]]
    got = [top["logprob"] for entry in streamed for top in entry["top_logprobs"]]
    assert got == pytest.approx(expected, abs=1e-4)


def test_completion_logprobs_are_the_same(http: Http) -> None:
    body = {**TEXT, "logprobs": 2}
    whole = http.post_ok("text", body)["choices"][0]["logprobs"]
    parts = [c["logprobs"] for e in http.stream("text", body) for c in e["choices"] if c["logprobs"]]
    for key in ("tokens", "text_offset"):
        assert [value for part in parts for value in part[key]] == whole[key]
    got = [value for part in parts for value in part["token_logprobs"]]
    assert got == pytest.approx(whole["token_logprobs"], abs=1e-4)


def test_an_echoed_prompt_is_the_same(http: Http) -> None:
    body = {**TEXT, "echo": True}
    whole = http.post_ok("text", body)["choices"][0]
    assert collected("text", http.stream("text", body)) == {0: (whole["text"], whole["finish_reason"])}
    assert whole["text"].startswith(PROMPT)


def test_several_prompts_are_the_same(http: Http) -> None:
    body = {**TEXT, "prompt": [PROMPT, "The animal of"]}
    whole = http.post_ok("text", body)["choices"]
    expected = {choice["index"]: (choice["text"], choice["finish_reason"]) for choice in whole}
    assert collected("text", http.stream("text", body)) == expected


def test_the_first_delta_of_each_choice_has_the_role_and_no_other_has(http: Http) -> None:
    events = http.stream("chat", {**CHAT, **SAMPLED, "n": 2})
    for index in (0, 1):
        deltas = [c["delta"] for event in events for c in event["choices"] if c["index"] == index]
        assert deltas[0]["role"] == "assistant"
        assert all("role" not in delta or delta["role"] is None for delta in deltas[1:])
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1


@pytest.mark.parametrize("route", ROUTES)
def test_tokens_arrive_one_by_one(http: Http, route: str) -> None:
    body = {**GOOD[route], "ignore_eos": True, "max_tokens": 50}
    events = http.stream(route, body)
    assert sum(bool(text_in(route, choice)) for event in events for choice in event["choices"]) >= 40


def test_the_openai_client_reads_the_stream(client: OpenAI) -> None:
    whole = client.chat.completions.create(**CHAT)
    with client.chat.completions.create(
        **CHAT, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


# ---- the report ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["base", "small"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_report_says_which_engine_decoded_how_many_tokens(http: Http, route: str, engine: str) -> None:
    sequence = {"method": "plain", "engine": engine}
    decoding = {"report": True, "sequence": sequence}
    answer = http.post_ok(route, {**GOOD[route], **SAMPLED, "n": 3, "decoding": decoding})
    tokens = {engine: answer["usage"]["completion_tokens"]}
    assert answer["decoding"] == {"sequence": {**sequence, "tokens": tokens}}


@pytest.mark.parametrize("usage", [False, True], ids=["no usage", "usage"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_stream_carries_the_report_on_its_last_chunk_only(http: Http, route: str, usage: bool) -> None:
    decoding = {**ON_SMALL, "report": True}
    body = {**GOOD[route], **SAMPLED, "n": 2, "decoding": decoding}
    whole = http.post_ok(route, body)
    events = http.stream(route, {**body, "stream_options": {"include_usage": usage}})
    assert events[-1]["decoding"] == whole["decoding"]
    assert whole["decoding"]["sequence"]["tokens"] == {"small": whole["usage"]["completion_tokens"]}
    assert all("decoding" not in event for event in events[:-1])
    assert bool(events[-1].get("usage")) == usage


@pytest.mark.parametrize("decoding", [None, {}, {"report": False}, ON_SMALL])
@pytest.mark.parametrize("route", ROUTES)
def test_no_report_unasked(http: Http, route: str, decoding: dict[str, Any] | None) -> None:
    body = {**GOOD[route], "decoding": decoding}
    assert "decoding" not in http.post_ok(route, body)
    assert all("decoding" not in event for event in http.stream(route, body))
