"""Answers bound to a JSON schema, a choice or a regular expression, and tool calls."""

import json
import re
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.client import CHAT, QUESTION, TEXT, Http, token_ids

DIGIT = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["a"],
    "additionalProperties": False,
}
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "sure": {"type": "boolean"}},
    "required": ["colour", "sure"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "pick", "strict": True, "parameters": DIGIT}},
    {"type": "function", "function": {"name": "paint", "strict": True, "parameters": COLOUR}},
]
ROOM = {**CHAT, "max_tokens": 200}


def is_digit(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"a"} and value["a"] in range(10)


def is_colour(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"colour", "sure"}:
        return False
    return value["colour"] in ("red", "green") and isinstance(value["sure"], bool)


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def content(http: Http, body: dict[str, Any], streamed: bool) -> str:
    if not streamed:
        choice = http.post_ok("chat", body)["choices"][0]
        assert choice["finish_reason"] == "stop", choice
        return str(choice["message"]["content"])
    choices = [choice for event in http.stream("chat", body) for choice in event["choices"]]
    assert choices[-1]["finish_reason"] == "stop"
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_json_schema_binds_the_answer(http: Http, temperature: float, streamed: bool) -> None:
    body = {**ROOM, "temperature": temperature, "seed": 3}
    digit = json.loads(content(http, {**body, "response_format": response_format(DIGIT)}, streamed))
    assert is_digit(digit), digit
    colour = json.loads(content(http, {**body, "response_format": response_format(COLOUR)}, streamed))
    assert is_colour(colour), colour


def test_json_object_gives_an_object(http: Http) -> None:
    """How long a free object grows is up to the model: of several, those that end must be objects."""
    body = {**CHAT, "max_tokens": 300, "n": 12, "temperature": 1, "seed": 1}
    choices = http.post_ok("chat", {**body, "response_format": {"type": "json_object"}})["choices"]
    ended = [choice["message"]["content"] for choice in choices if choice["finish_reason"] == "stop"]
    assert ended
    assert all(isinstance(json.loads(text), dict) for text in ended)
    assert all(choice["message"]["content"].startswith("{") for choice in choices)


def test_the_small_engine_is_bound_as_well(http: Http) -> None:
    body = {**ROOM, "model": "demo:small", "response_format": response_format(DIGIT)}
    assert is_digit(json.loads(content(http, body, False)))


def test_every_choice_is_bound(http: Http) -> None:
    body = {**ROOM, "temperature": 1, "seed": 2, "n": 4, "response_format": response_format(DIGIT)}
    choices = http.post_ok("chat", body)["choices"]
    assert [is_digit(json.loads(choice["message"]["content"])) for choice in choices] == [True] * 4


def test_a_choice_is_one_of_those_given(http: Http) -> None:
    body = {**TEXT, "max_tokens": 20, "structured_outputs": {"choice": ["violet", "orange"]}}
    choice = http.post_ok("text", body)["choices"][0]
    assert choice["text"] in ("violet", "orange")
    assert choice["finish_reason"] == "stop"


def test_a_regular_expression_matches_the_whole_answer(http: Http) -> None:
    pattern = "[a-c]{3}-[0-9]{2}"
    for route, body in (("text", TEXT), ("chat", CHAT)):
        bound = {**body, "max_tokens": 30, "structured_outputs": {"regex": pattern}}
        choice = http.post_ok(route, bound)["choices"][0]
        text = choice["text"] if route == "text" else choice["message"]["content"]
        assert re.fullmatch(pattern, text)


def test_structured_answers_do_not_bind_their_neighbours(http: Http) -> None:
    before = http.post_ok("chat", CHAT)["choices"][0]["message"]["content"]
    http.post_ok("chat", {**ROOM, "structured_outputs": {"choice": ["red", "green"]}})
    assert http.post_ok("chat", CHAT)["choices"][0]["message"]["content"] == before


# ---- tools ---------------------------------------------------------------------------------------------

NAMED: Any = {"type": "function", "function": {"name": "pick"}}


@pytest.fixture(scope="module")
def compact(http: Http) -> dict[str, int]:
    """A logit_bias without white space. A tool's JSON may hold any amount of it, and tiny models like it."""
    return {str(token_ids(http, space)[0]): -100 for space in ("\r", "\n", "\t", " ")}


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_named_tool_is_called_with_arguments_of_its_schema(
    client: OpenAI, compact: dict[str, int], temperature: float
) -> None:
    options = {**ROOM, "temperature": temperature, "seed": 4, "logit_bias": compact}
    answer = client.chat.completions.create(**options, tools=TOOLS, tool_choice=NAMED)
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.id
    assert call.function.name == "pick"
    assert is_digit(json.loads(call.function.arguments))
    assert not answer.choices[0].message.content


@pytest.mark.parametrize("temperature", [0, 1])
def test_required_calls_a_tool_with_arguments_of_its_schema(
    client: OpenAI, compact: dict[str, int], temperature: float
) -> None:
    options = {**ROOM, "temperature": temperature, "seed": 4, "logit_bias": compact}
    answer = client.chat.completions.create(
        **options, tools=TOOLS, tool_choice="required", parallel_tool_calls=False
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert is_one_of_the_tools(call.function.name, call.function.arguments)
    assert answer.choices[0].finish_reason == "tool_calls"


def is_one_of_the_tools(name: str, arguments: str) -> bool:
    return {"pick": is_digit, "paint": is_colour}[name](json.loads(arguments))


@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
def test_a_streamed_tool_call_is_the_same(http: Http, compact: dict[str, int], choice: Any) -> None:
    body = {
        **ROOM,
        "logit_bias": compact,
        "tools": TOOLS,
        "tool_choice": choice,
        "parallel_tool_calls": False,
    }
    whole = http.post_ok("chat", body)["choices"][0]["message"]["tool_calls"]
    calls: dict[int, dict[str, str]] = {}
    for event in http.stream("chat", body):
        for delta in (choice["delta"] for choice in event["choices"]):
            for part in delta.get("tool_calls") or []:
                call = calls.setdefault(part["index"], {"name": "", "arguments": ""})
                for key in call:
                    call[key] += part["function"].get(key) or ""
    expected = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in whole]
    assert [(calls[i]["name"], json.loads(calls[i]["arguments"])) for i in sorted(calls)] == expected
    assert all(is_one_of_the_tools(call["name"], call["arguments"]) for call in calls.values())


def test_tools_may_be_offered_and_not_called(client: OpenAI) -> None:
    answer = client.chat.completions.create(**CHAT, tools=TOOLS, tool_choice="none")
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].message.content


def test_a_conversation_with_a_tool_call_and_its_result_goes_on(client: OpenAI) -> None:
    call: Any = {"id": "call-1", "type": "function", "function": {"name": "pick", "arguments": '{"a": 3}'}}
    conversation: Any = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call-1", "content": "done"},
    ]
    answer = client.chat.completions.create(**{**CHAT, "messages": conversation})
    assert answer.choices[0].finish_reason in ("stop", "length")
