import asyncio
from typing import Any

import pytest

from decoders.deployment import Deployment, EngineFacts
from decoders.request import DecodingRequest
from server.admission import Slots, admit
from server.config import LimitSettings
from server.errors import ApiError, unavailable
from server.requests import CALL, ChatRequest, TextRequest

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
        (chat, {"stop_token_ids": [1, "2"]}, "stop_token_ids"),
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
