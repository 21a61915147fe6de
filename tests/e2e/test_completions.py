"""POST /v1/completions and /v1/chat/completions, answered whole."""

from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.client import CHAT, GOOD, PROMPT, TEXT, Http, text_of, token_ids

MODELS = ["demo", "demo:small"]
ROUTES = ["chat", "text"]

# fmt: off
NULLABLE_BOTH = [
    "n", "stream", "temperature", "top_p", "stop", "logprobs", "stream_options", "seed", "max_tokens",
    "logit_bias", "presence_penalty", "frequency_penalty", "user", "decoding", "response_format",
    "structured_outputs", "min_tokens", "ignore_eos", "top_k", "min_p", "repetition_penalty",
    "stop_token_ids", "bad_words", "allowed_token_ids", "prompt_logprobs", "vllm_xargs", "metadata",
]
NULLABLE = {
    "chat": [
        *NULLABLE_BOTH,
        "tools", "tool_choice", "top_logprobs", "max_completion_tokens", "parallel_tool_calls",
        "functions", "function_call", "store", "service_tier", "modalities", "audio", "prediction",
        "verbosity", "reasoning_effort",
    ],
    "text": [*NULLABLE_BOTH, "echo", "suffix", "best_of"],
}
# fmt: on


@pytest.mark.parametrize("model", MODELS)
def test_a_greedy_chat_is_the_same_every_time(client: OpenAI, model: str) -> None:
    answers = [client.chat.completions.create(**{**CHAT, "model": model}) for _ in range(3)]
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert answers[0].choices[0].message.content
    assert answers[0].choices[0].message.role == "assistant"
    assert len({answer.id for answer in answers}) == 3


@pytest.mark.parametrize("model", MODELS)
def test_a_greedy_completion_is_the_same_every_time(client: OpenAI, model: str) -> None:
    answers = [client.completions.create(**{**TEXT, "model": model}) for _ in range(3)]
    assert len({answer.choices[0].text for answer in answers}) == 1
    assert answers[0].choices[0].text


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("route", ROUTES)
def test_the_response_names_the_model_that_was_asked(http: Http, route: str, model: str) -> None:
    body = {**GOOD[route], "model": model}
    assert http.post_ok(route, body)["model"] == model
    assert {event["model"] for event in http.stream(route, body)} == {model}


@pytest.mark.parametrize("route", ROUTES)
def test_usage_counts_the_tokens_of_prompt_and_answer(http: Http, route: str) -> None:
    body = {**GOOD[route], "ignore_eos": True, "max_tokens": 13, "return_token_ids": True}
    answer = http.post_ok(route, body)
    usage, choice = answer["usage"], answer["choices"][0]
    prompt_ids = answer["prompt_token_ids"] if route == "chat" else choice["prompt_token_ids"]
    assert usage["completion_tokens"] == len(choice["token_ids"]) == 13
    assert usage["prompt_tokens"] == len(prompt_ids)
    assert usage["total_tokens"] == usage["prompt_tokens"] + 13
    tokenized = {k: v for k, v in body.items() if k in ("model", "messages", "prompt")}
    assert http.post_ok("/tokenize", tokenized)["tokens"] == prompt_ids


def test_max_tokens_ends_an_answer_with_reason_length(client: OpenAI) -> None:
    answer = client.chat.completions.create(**{**CHAT, "max_tokens": 3}, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    same = {k: v for k, v in CHAT.items() if k != "max_tokens"}
    newer = client.chat.completions.create(**same, max_completion_tokens=3, extra_body={"ignore_eos": True})
    assert newer.choices[0].message.content == answer.choices[0].message.content
    assert newer.choices[0].finish_reason == "length"


def test_an_answer_without_a_limit_ends_by_itself(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=CHAT["messages"], temperature=0)
    assert answer.choices[0].finish_reason == "stop"


def test_n_choices_have_their_indices_and_all_count_as_usage(client: OpenAI) -> None:
    answer = client.completions.create(
        model="demo",
        prompt=PROMPT,
        n=3,
        max_tokens=12,
        temperature=1,
        seed=1,
        extra_body={"ignore_eos": True},
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.text for choice in answer.choices}) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3 * 12


@pytest.mark.parametrize("model", MODELS)
def test_a_seed_makes_sampling_reproducible(client: OpenAI, model: str) -> None:
    def sample(seed: int) -> str:
        answer = client.completions.create(
            model=model,
            prompt=PROMPT,
            temperature=1.5,
            seed=seed,
            max_tokens=24,
            extra_body={"ignore_eos": True},
        )
        return answer.choices[0].text

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(7, 11)}) == 4


def test_several_prompts_get_their_own_choices(client: OpenAI) -> None:
    prompts = [PROMPT, "The animal of", "A question"]
    alone = [client.completions.create(**{**TEXT, "prompt": prompt}) for prompt in prompts]
    answer = client.completions.create(**{**TEXT, "prompt": prompts})
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.text for choice in answer.choices] == [one.choices[0].text for one in alone]
    assert answer.usage is not None
    assert answer.usage.total_tokens == sum(one.usage.total_tokens for one in alone if one.usage)


def test_a_prompt_of_token_ids_means_the_text_it_stands_for(client: OpenAI, http: Http) -> None:
    ids = http.post_ok("/tokenize", {"model": "demo", "prompt": PROMPT})["tokens"]
    by_text = client.completions.create(**TEXT)
    by_ids = client.completions.create(**{**TEXT, "prompt": ids})
    both = client.completions.create(**{**TEXT, "prompt": [ids, ids]})
    assert by_ids.choices[0].text == by_text.choices[0].text
    assert [choice.text for choice in both.choices] == [by_text.choices[0].text] * 2
    assert by_ids.usage is not None
    assert by_ids.usage.prompt_tokens == len(ids)


def test_echo_puts_the_prompt_before_the_answer(client: OpenAI) -> None:
    plain = client.completions.create(**TEXT)
    echoed = client.completions.create(**TEXT, echo=True)
    assert echoed.choices[0].text == PROMPT + plain.choices[0].text


def test_logit_bias_forces_a_token(client: OpenAI, http: Http) -> None:
    (forced,) = token_ids(http, "7")
    answer = client.completions.create(**{**TEXT, "max_tokens": 5}, logit_bias={str(forced): 100})
    assert answer.choices[0].text == text_of(http, [forced] * 5)
    banned = client.completions.create(**{**TEXT, "max_tokens": 5}, logit_bias={str(forced): -100})
    assert "7" not in banned.choices[0].text


def test_ignore_eos_and_min_tokens_lengthen_an_answer(http: Http) -> None:
    body = {**CHAT, "max_tokens": 100}
    assert http.post_ok("chat", body)["usage"]["completion_tokens"] < 40
    ignoring = http.post_ok("chat", {**body, "ignore_eos": True})
    assert ignoring["usage"]["completion_tokens"] == 100
    assert ignoring["choices"][0]["finish_reason"] == "length"
    at_least = http.post_ok("chat", {**body, "min_tokens": 40})
    assert 40 <= at_least["usage"]["completion_tokens"] <= 100


@pytest.mark.parametrize("route", ROUTES)
def test_null_means_left_out(http: Http, route: str) -> None:
    nulls: dict[str, Any] = dict.fromkeys(NULLABLE[route])
    body = {"model": "demo", "messages": CHAT["messages"]} if route == "chat" else dict(TEXT)
    nulls = {key: value for key, value in nulls.items() if key not in body}
    answer = http.post(route, {**body, **nulls})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["choices"]) == 1


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["n", "stream", "temperature", "stop", "logprobs", "stream_options", "seed"])
def test_each_common_field_may_be_null(http: Http, route: str, name: str) -> None:
    answer = http.post_ok(route, {**GOOD[route], name: None})
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")


def test_fields_that_change_nothing_are_accepted(client: OpenAI) -> None:
    plain = client.chat.completions.create(**CHAT)
    tagged = client.chat.completions.create(
        **CHAT, user="someone", metadata={"run": "1"}, store=False, service_tier="auto", safety_identifier="x"
    )
    assert tagged.choices[0].message.content == plain.choices[0].message.content
