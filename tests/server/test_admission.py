import asyncio
import time
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from vllm.exceptions import VLLMValidationError

from decoders.deployment import Deployment, EngineFacts
from decoders.exact import shapes
from decoders.request import DecodingRequest
from server.admission import Slots, admit
from server.config import LimitSettings
from server.contract import normalised
from server.errors import ApiError, unavailable
from server.requests import (
    CALL,
    ChatRequest,
    DetokenizeBody,
    RankRequest,
    TextRequest,
    TokenizeChat,
    TokenizeText,
)

DEPLOYMENT = Deployment("base", {"base": EngineFacts("b", 512), "small": EngineFacts("s", 512)})
SMALL = DecodingRequest.model_validate({"sequence": {"method": "plain", "engine": "small"}})
LIMITS = LimitSettings(n=4, sequences=6, max_tokens=100, logprobs=5, logit_bias=2, list_items=2)
MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "demo", "messages": MESSAGES, **fields})


def text(**fields: Any) -> TextRequest:
    return TextRequest.model_validate({"model": "demo", "prompt": "hi", **fields})


def refusal(make: Any, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        admit(make(**fields), {}, DEPLOYMENT, LIMITS)
    return caught.value


@pytest.mark.parametrize(
    ("make", "fields", "param"),
    [
        (chat, {"n": 0}, "n"),
        (chat, {"n": 5}, "n"),
        (text, {"n": 4, "prompt": ["a", "b"]}, "n"),
        (chat, {"max_tokens": 101}, "max_tokens"),
        (chat, {"max_completion_tokens": 101}, "max_completion_tokens"),
        (text, {"logprobs": 6}, "logprobs"),
        (chat, {"logprobs": True, "top_logprobs": 6}, "top_logprobs"),
        (chat, {"prompt_logprobs": -1}, "prompt_logprobs"),
        (chat, {"logit_bias": {"1": 1, "2": 1, "3": 1}}, "logit_bias"),
        (chat, {"logit_bias": {"x": 1}}, "logit_bias"),
        (chat, {"bad_words": ["a", "b", "c"]}, "bad_words"),
        (text, {"stop_token_ids": [1, 2, 3]}, "stop_token_ids"),
        (text, {"logprobs": 1, "logprob_token_ids": [1, 2, 3]}, "logprob_token_ids"),
        (chat, {"logit_bias": {"1": 101}}, "logit_bias"),
        (chat, {"vllm_xargs": {CALL: 1}}, "vllm_xargs"),
        (text, {"prompt": ""}, "prompt"),
        (text, {"prompt": [[1], []]}, "prompt"),
        (chat, {"unheard_of": 1}, "unheard_of"),
        (chat, {"functions": []}, "functions"),
        (chat, {"store": True}, "store"),
        (chat, {"store": 0}, "store"),
        (
            chat,
            {"tools": [{"type": "function", "function": {"name": "f", "strict": 0}}]},
            "tools.0.function.strict",
        ),
        (
            chat,
            {"tools": [{"type": "function", "function": {"name": "f"}, "defer_loading": "no"}]},
            "tools.0.defer_loading",
        ),
        (chat, {"modalities": ["audio"]}, "modalities"),
        (chat, {"service_tier": "priority"}, "service_tier"),
        (chat, {"kv_transfer_params": {}}, "kv_transfer_params"),
        (chat, {"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        (chat, {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        (chat, {"messages": [*MESSAGES, 5]}, "messages.1.role"),
        (text, {"prompt": [1, "a"]}, "prompt"),
        (text, {"prompt": [[1], [-1]]}, "prompt"),
        (chat, {"stop_token_ids": [1, "2"]}, "stop_token_ids.1"),
        (text, {"allowed_token_ids": [1, []]}, "allowed_token_ids.1"),
        (chat, {"bad_words": ["a", None]}, "bad_words.1"),
        (chat, {"logit_bias": {"1": True}}, "logit_bias.1"),
        (chat, {"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        (chat, {"repetition_detection": {"min_count": True}}, "repetition_detection.min_count"),
        (chat, {"structured_outputs": {"json_object": 1}}, "structured_outputs.json_object"),
        (
            chat,
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {}, "strict": "yes"},
                }
            },
            "response_format.json_schema.strict",
        ),
        (chat, {"decoding": {"report": 1}}, "decoding.report"),
        (chat, {"use_beam_search": True, "stop": ["x"]}, "stop"),
        (chat, {"use_beam_search": True, "stream": True}, "use_beam_search"),
        (chat, {"length_penalty": 2.0}, "length_penalty"),
        (chat, {"stream_options": {"include_usage": True}}, "stream_options"),
        (chat, {"stream": True, "stream_options": {"include_usgae": True}}, "stream_options.include_usgae"),
        (chat, {"request_id": "x"}, "request_id"),
        (chat, {"return_token_offsets": True}, "return_token_offsets"),
        (chat, {"messages": [{"role": "user"}]}, "messages.0.content"),
        (chat, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        (chat, {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls.0.function"),
        (chat, {"tools": [{"type": "function", "x": 1}]}, "tools.0.x"),
        (chat, {"structured_outputs": {"json": {"$ref": "http://x/y"}}}, "structured_outputs"),
        (chat, {"structured_outputs": {"json": '{"$ref": "http://x/y"}'}}, "structured_outputs"),
        (chat, {"structured_outputs": {"json": {}, "disable_any_whitespace": True}}, "structured_outputs"),
        (chat, {"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs"),
        (chat, {"structured_outputs": {"choice": ["a", 1]}}, "structured_outputs"),
        (chat, {"vllm_xargs": {"a": {}}}, "vllm_xargs"),
        (chat, {"vllm_xargs": {str(i): 1 for i in range(65)}}, "vllm_xargs"),
        (chat, {"documents": ["x"]}, "documents.0"),
        (chat, {"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        (chat, {"decoding": {"sequence": {"method": "plain", "engine": "huge"}}}, "decoding.sequence.engine"),
        (chat, {"use_beam_search": True, "decoding": {"report": True}}, "use_beam_search"),
    ],
)
def test_a_request_over_a_bound_names_the_field(make: Any, fields: dict[str, Any], param: str) -> None:
    error = refusal(make, **fields)
    assert (error.status_code, error.param) == (400, param)


KINDS: dict[str, Any] = {"boolean": True, "integer": 1, "number": 0.5, "string": "1"}


def takes(schema: Any) -> set[str] | None:
    """JSON's types that a field's schema names; None if it says nothing simple of them."""
    if "anyOf" in schema:
        inner = [takes(one) for one in schema["anyOf"]]
        return None if None in inner else set().union(*(one or () for one in inner))
    if "type" not in schema:
        return None
    return {schema["type"]} | ({"integer"} if schema["type"] == "number" else set())


BODIES: dict[type[BaseModel], dict[str, Any]] = {
    ChatRequest: {"messages": MESSAGES},
    TextRequest: {"prompt": "x"},
    RankRequest: {"prompt": "x", "candidates": ["a", "b"]},
    TokenizeText: {"prompt": "x"},
    TokenizeChat: {"messages": MESSAGES},
    DetokenizeBody: {"tokens": [1]},
}
WRONG = [
    (body, field, value)
    for body in BODIES
    for field, schema in body.model_json_schema()["properties"].items()
    if (taken := takes(schema)) is not None
    for kind, value in KINDS.items()
    if kind not in taken
]


@pytest.mark.parametrize(("body", "field", "value"), WRONG)
def test_no_field_takes_what_only_resembles_it(body: type[BaseModel], field: str, value: Any) -> None:
    with pytest.raises((ApiError, VLLMValidationError, ValidationError)) as caught:
        body.model_validate({**BODIES[body], field: value})
    match caught.value:
        case ApiError(param=named) | VLLMValidationError(parameter=named):
            assert named == field
        case ValidationError() as error:
            assert error.errors()[0]["loc"][0] == field


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ("stop", "A string or a list"),
        ("tool_choice", "A string or an object"),
        ("temperature", "A number"),
        ("logprobs", "True or false"),
    ],
)
def test_all_that_a_field_takes_is_named(field: str, allowed: str) -> None:
    value = 5 if field != "temperature" else "5"
    assert str(refusal(chat, **{field: value}).detail) == f"{field}: {allowed} is required."


def test_there_are_fields_that_could() -> None:
    assert {body for body, _, _ in WRONG} == BODIES.keys()
    assert len(WRONG) > 300


def test_a_number_without_a_fraction_is_an_integer() -> None:
    assert chat(max_tokens=16.0, seed=3.0).max_tokens == 16
    assert chat(temperature=1).temperature == 1.0
    assert refusal(chat, max_tokens=16.5).param == "max_tokens"


def test_many_ids_are_checked_in_little_time() -> None:
    """On the event loop: a body of 8 MB has a million of them."""
    ids = list(range(1_000_000))
    start = time.process_time()
    normalised({"prompt": "x", "stop_token_ids": ids, "bad_words": ["x"] * 1_000_000}, shapes(TextRequest))
    assert time.process_time() - start < 0.5


def test_null_means_left_out() -> None:
    fields = dict.fromkeys(
        ("n", "stream", "temperature", "stop", "tools", "seed", "max_tokens", "stream_options")
    )
    assert chat(**fields).n == 1
    assert text(**{**fields, "logprobs": None}).max_tokens == 16
    assert chat(stream_options={"include_usage": None}).stream_options is None


def test_openais_inert_fields_pass() -> None:
    fields = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "modalities": ["text"],
    }
    assert admit(chat(**fields), {}, DEPLOYMENT, LIMITS).decoding.layers() == []


def test_a_preset_gives_the_decoding_and_the_request_overrides_it_layer_by_layer() -> None:
    presets = {"demo:small": SMALL}
    call = admit(chat(model="demo:small", decoding={"report": True}), presets, DEPLOYMENT, LIMITS)
    assert (call.decoding.sequence.engine, call.decoding.report) == ("small", True)
    given = {"sequence": {"method": "plain", "engine": "base"}}
    call = admit(chat(model="demo:small", decoding=given), presets, DEPLOYMENT, LIMITS)
    assert call.decoding.sequence.engine == "base"
    assert admit(chat(), presets, DEPLOYMENT, LIMITS).decoding.sequence is None


def test_the_call_travels_with_the_sampling_parameters() -> None:
    request = chat(vllm_xargs={"mine": 1})
    call = admit(request, {}, DEPLOYMENT, LIMITS)
    assert request.to_sampling_params(8, {}).extra_args == {"mine": 1, CALL: call}


async def test_slots_run_queue_and_refuse_in_order() -> None:
    slots = Slots(running=1, waiting=1)
    order: list[str] = []
    release = asyncio.Event()

    async def work(name: str) -> None:
        async with slots.hold():
            order.append(name)
            await release.wait()

    first, second = asyncio.create_task(work("first")), asyncio.create_task(work("second"))
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as caught:
        await work("third")
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    assert caught.value.headers == {"Retry-After": "2"}
    assert order == ["first"]
    assert not await slots.idle(0.01)
    release.set()
    await asyncio.gather(first, second)
    assert order == ["first", "second"]
    assert await slots.idle(0.01)


async def test_a_waiter_that_leaves_gives_up_its_place() -> None:
    slots = Slots(running=1, waiting=1)
    async with slots.hold():
        waiter = asyncio.create_task(slots.hold().__aenter__())
        await asyncio.sleep(0)
        assert slots.held == 2
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        assert slots.held == 1
    assert slots.held == 0
    async with slots.hold():
        assert slots.held == 1


async def test_a_draining_server_takes_nobody() -> None:
    slots = Slots(1, 1)
    slots.closed = unavailable("The server is shutting down.", "draining")
    with pytest.raises(ApiError) as caught:
        async with slots.hold():
            pass
    assert caught.value.code == "draining"


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def held_for(slots: Slots, clock: Clock, seconds: float) -> None:
    async with slots.hold():
        clock.now += seconds


async def test_a_line_takes_nobody_whose_turn_comes_too_late() -> None:
    """With 2 slots of 8 s each one falls free every 4 s: the third in line waits 12 s."""
    clock = Clock()
    slots = Slots(running=2, waiting=100, seconds=9.0, clock=clock)
    assert slots.expected_wait() == 0.0
    await held_for(slots, clock, 8.0)
    release = asyncio.Event()

    async def work() -> None:
        async with slots.hold():
            await release.wait()

    tasks = []
    for expected in (0.0, 0.0, 4.0, 8.0):
        assert slots.expected_wait() == expected
        tasks.append(asyncio.create_task(work()))
        await asyncio.sleep(0)
    assert slots.expected_wait() == 12.0
    with pytest.raises(ApiError) as caught:
        await work()
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    assert caught.value.headers == {"Retry-After": "12"}
    tasks.pop().cancel()  # the last in line leaves: there is room for one again
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(work()))
    await asyncio.sleep(0)
    assert slots.held == 4
    release.set()
    await asyncio.gather(*tasks)


async def test_holding_times_are_those_of_late() -> None:
    clock = Clock()
    slots = Slots(running=1, waiting=9, clock=clock)
    await held_for(slots, clock, 100.0)
    for _ in range(200):
        await held_for(slots, clock, 1.0)
    assert slots.holding == pytest.approx(1.0, abs=0.01)


async def test_without_a_bound_only_the_length_of_the_line_counts() -> None:
    clock = Clock()
    slots = Slots(running=1, waiting=1, clock=clock)
    await held_for(slots, clock, 1000.0)
    async with slots.hold():
        waiter = asyncio.create_task(held_for(slots, clock, 0.0))
        await asyncio.sleep(0)
        assert slots.expected_wait() == 2000.0
        with pytest.raises(ApiError) as caught:
            await held_for(slots, clock, 0.0)
        assert caught.value.headers == {"Retry-After": "60"}
    await waiter
