"""Log-probabilities of answers and prompts."""

import math
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.client import CHAT, PROMPT, TEXT, Http

TINY = 1e-4


@pytest.mark.parametrize("width", [0, 1, 5, 20])
def test_chat_gives_as_many_top_logprobs_as_asked(client: OpenAI, width: int) -> None:
    answer = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=width)
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert answer.usage is not None
    assert len(content) == answer.usage.completion_tokens
    text = b"".join(bytes(token.bytes or []) for token in content).decode()
    assert text.startswith(answer.choices[0].message.content or "nothing")  # the end token has logprobs too
    for token in content:
        assert len(token.top_logprobs) == width
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) <= 1 + TINY
        ordered = [top.logprob for top in token.top_logprobs]
        assert ordered == sorted(ordered, reverse=True)
        if width:  # greedy: the token taken is the likeliest
            assert token.logprob == pytest.approx(ordered[0], abs=TINY)
            assert token.token == token.top_logprobs[0].token


def test_chat_gives_no_logprobs_unasked(client: OpenAI) -> None:
    assert client.chat.completions.create(**CHAT).choices[0].logprobs is None


def test_all_of_the_vocabulary_together_has_probability_one(http: Http) -> None:
    """A handful of likely tokens holds nearly all of the mass, and never more than all of it."""
    answer = http.post_ok("text", {**TEXT, "logprobs": 20, "max_tokens": 4})
    for top in answer["choices"][0]["logprobs"]["top_logprobs"]:
        assert 0.5 < sum(map(math.exp, top.values())) <= 1 + TINY


def test_completions_echo_scores_the_prompt_as_well(http: Http) -> None:
    answer = http.post_ok("text", {**TEXT, "echo": True, "logprobs": 2, "ignore_eos": True})
    logprobs = answer["choices"][0]["logprobs"]
    total = answer["usage"]["total_tokens"]
    assert {key: len(values) for key, values in logprobs.items()} == {
        "tokens": total,
        "token_logprobs": total,
        "top_logprobs": total,
        "text_offset": total,
    }
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert all(value <= 0 for value in logprobs["token_logprobs"][1:])
    assert all(2 <= len(top) <= 3 for top in logprobs["top_logprobs"][1:])
    assert answer["choices"][0]["text"].startswith(PROMPT)


def test_echoed_logprobs_are_those_of_the_answer(http: Http) -> None:
    """The answer, sent back as prompt, gets the logprobs it was given when it was decoded."""
    first = http.post_ok("text", {**TEXT, "logprobs": 0, "ignore_eos": True, "return_token_ids": True})
    choice = first["choices"][0]
    ids = choice["prompt_token_ids"] + choice["token_ids"]
    body = {**TEXT, "prompt": ids, "echo": True, "logprobs": 0, "max_tokens": 1}
    again = http.post_ok("text", body)["choices"][0]["logprobs"]["token_logprobs"]
    given = choice["logprobs"]["token_logprobs"]
    start = len(choice["prompt_token_ids"])
    assert again[start : start + len(given)] == pytest.approx(given, abs=1e-3)


def test_prompt_logprobs_has_one_entry_a_prompt_token(http: Http) -> None:
    answer = http.post_ok("text", {**TEXT, "prompt_logprobs": 1})
    scored: list[Any] = answer["choices"][0]["prompt_logprobs"]
    assert len(scored) == answer["usage"]["prompt_tokens"]
    assert scored[0] is None
    assert all(entry is not None for entry in scored[1:])


def test_prompt_logprobs_of_a_cached_prompt_are_those_of_a_fresh_one(http: Http) -> None:
    """vLLM leaves the rows of cached positions uninitialised where it reads them from the cache."""
    body = {**TEXT, "prompt": f"{TEXT['prompt']} the country " * 12, "prompt_logprobs": 0, "max_tokens": 1}
    http.post_ok("text", {**body, "prompt_logprobs": None})
    warm, again, fresh = (
        http.post_ok("text", {**body, **more})["choices"][0]["prompt_logprobs"]
        for more in ({}, {}, {"cache_salt": "fresh"})
    )
    values = [
        [next(iter(row.values()))["logprob"] for row in rows if row is not None]
        for rows in (warm, again, fresh)
    ]
    assert values[0] == pytest.approx(values[2], abs=1e-4)
    assert values[1] == pytest.approx(values[2], abs=1e-4)
