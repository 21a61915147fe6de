"""Stop strings and stop tokens, streamed and not."""

from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.client import PROMPT, Http, greedy_text, token_ids

LENGTH = 40
BODY: dict[str, Any] = {
    "model": "demo",
    "prompt": PROMPT,
    "max_tokens": LENGTH,
    "temperature": 0,
    "ignore_eos": True,
}


def unlimited(client: OpenAI) -> str:
    text = greedy_text(client, LENGTH)
    assert len(text) > 30
    return text


def spanning(http: Http, text: str) -> str:
    """A substring that covers the end of one token and the beginning of the next."""
    start = text.index(" ", 8) - 2
    stop = text[start : start + 5]
    assert len(token_ids(http, stop)) > 1
    return stop


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stop_string_over_several_tokens_ends_the_text_before_it(
    client: OpenAI, http: Http, streamed: bool
) -> None:
    text = unlimited(client)
    stop = spanning(http, text)
    choice = finished(http, {**BODY, "stop": stop}, streamed)
    assert choice == {"text": text[: text.index(stop)], "finish_reason": "stop", "stop_reason": stop}


@pytest.mark.parametrize("streamed", [False, True])
def test_the_first_of_several_stop_strings_wins(client: OpenAI, http: Http, streamed: bool) -> None:
    text = unlimited(client)
    early, late = spanning(http, text), text[-6:]
    choice = finished(http, {**BODY, "stop": ["never in any text", late, early]}, streamed)
    assert choice == {"text": text[: text.index(early)], "finish_reason": "stop", "stop_reason": early}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stop_string_that_does_not_come_changes_nothing(client: OpenAI, http: Http, streamed: bool) -> None:
    choice = finished(http, {**BODY, "stop": ["never in any text"]}, streamed)
    assert choice == {"text": unlimited(client), "finish_reason": "length", "stop_reason": None}


def test_include_stop_str_in_output_keeps_the_stop_string(client: OpenAI, http: Http) -> None:
    text = unlimited(client)
    stop = spanning(http, text)
    choice = finished(http, {**BODY, "stop": stop, "include_stop_str_in_output": True}, False)
    assert choice["text"] == text[: text.index(stop) + len(stop)]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stop_token_ends_the_answer_and_is_the_reason(client: OpenAI, http: Http, streamed: bool) -> None:
    ids = http.post_ok("text", {**BODY, "return_token_ids": True})["choices"][0]["token_ids"]
    stop = next(token for token in ids[4:] if token not in ids[:4])
    choice = finished(http, {**BODY, "stop_token_ids": [stop]}, streamed)
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == stop
    assert unlimited(client).startswith(choice["text"])
    assert choice["text"] != unlimited(client)


def test_the_chat_route_honours_stop_too(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Tell me about a country."}]
    asked: dict[str, Any] = {"model": "demo", "messages": messages, "temperature": 0, "max_tokens": 40}
    text = client.chat.completions.create(**asked).choices[0].message.content
    assert text is not None
    stop = text[5:9]
    choice = client.chat.completions.create(**asked, stop=[stop]).choices[0]
    assert choice.message.content == text[: text.index(stop)]
    assert choice.finish_reason == "stop"


def finished(http: Http, body: dict[str, Any], streamed: bool) -> dict[str, Any]:
    """Text and ending of the only choice."""
    if not streamed:
        choice = http.post_ok("text", body)["choices"][0]
        return {key: choice[key] for key in ("text", "finish_reason", "stop_reason")}
    choices = [event["choices"][0] for event in http.stream("text", body)]
    assert all(choice["finish_reason"] is None for choice in choices[:-1])
    ending = {key: choices[-1][key] for key in ("finish_reason", "stop_reason")}
    return {"text": "".join(choice["text"] for choice in choices), **ending}
