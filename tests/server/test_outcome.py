"""What the report says was guided: of the tokens delivered, summed over prompts and choices."""

import asyncio
import threading
from typing import Any

import pytest
from vllm.inputs import tokens_input
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from decoders.logits.guidance import Outcome
from decoders.logits.worker import GuideWorker
from decoders.request import DecodingRequest
from server.call import Call
from server.engine import DecodingEngine
from server.outcome import matched
from server.requests import CALL

FINAL, DELTA = RequestOutputKind.FINAL_ONLY, RequestOutputKind.DELTA
GENARM: dict[str, Any] = {"method": "genarm", "weights": {"polite": 1.0}}
GATED = {**GENARM, "entropy_gate": 1.0}
FUSION: dict[str, Any] = {"method": "dynamic_fusion", "experts": ["polite"], "small": "brief"}
REVIEWS = ("Write a review of the hotel.", "Write a review of the park. Be brief.", "Hello")


def called(logits: dict[str, Any]) -> Call:
    decoding = DecodingRequest.model_validate({"logits": logits, "report": True})
    return Call(decoding, decoding.new_report())


async def answered(
    engine: DecodingEngine, call: Call, prompt: str = REVIEWS[0], **params: Any
) -> list[RequestOutput]:
    settings = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True, "output_kind": FINAL, **params}
    sampling = SamplingParams(**settings)
    sampling.extra_args = {CALL: call}
    ids = engine.renderer.tokenizer.encode(prompt)
    return [output async for output in engine.generate(tokens_input(ids), sampling, "r")]


def told(call: Call) -> dict[str, Any]:
    layer = call.report.layers["logits"]
    return {
        name: layer[name]
        for name in ("tokens", "guided", "mean_alpha", "alphas", "sequences")
        if name in layer
    }


def count(outputs: list[RequestOutput]) -> int:
    """Of outputs of one prompt, all of them deltas, or one final."""
    return sum(len(choice.token_ids) for output in outputs for choice in output.outputs)


@pytest.mark.parametrize("kind", [FINAL, DELTA])
@pytest.mark.parametrize("asked", [GENARM, GATED, FUSION], ids=["genarm", "gated", "fusion"])
async def test_a_stop_strings_answer_has_the_tokens_delivered(
    engine: DecodingEngine, asked: dict[str, Any], kind: Any
) -> None:
    whole = called(asked)
    text = (await answered(engine, whole))[-1].outputs[0].text
    for start in (8, 20, 30):
        call = called(asked)
        outputs = await answered(engine, call, stop=[text[start : start + 6]], output_kind=kind)
        assert outputs[-1].outputs[0].finish_reason == "stop"
        tokens = count(outputs)
        assert told(call)["tokens"] == call.report.layers["sequence"]["tokens"]["base"] == tokens < 24
        assert told(call)["guided"] <= tokens
        if asked is GENARM:
            assert told(call)["guided"] == tokens
        if asked is FUSION:
            assert told(call)["alphas"]["polite"] == told(whole)["alphas"]["polite"][:tokens]


async def test_weights_of_zero_guide_no_token(engine: DecodingEngine) -> None:
    call = called({"method": "genarm", "weights": {"polite": 0.0}})
    await answered(engine, call)
    assert told(call) == {"tokens": 24, "guided": 0}


@pytest.mark.parametrize("kind", [FINAL, DELTA])
async def test_prompts_and_choices_are_summed(engine: DecodingEngine, kind: Any) -> None:
    alone = []
    for prompt in REVIEWS:
        for choice in range(2):  # choices are seeded one after another
            single = called(GATED)
            await answered(engine, single, prompt, seed=5 + choice, temperature=1.0)
            alone.append(told(single))
    assert len({one["guided"] for one in alone}) > 1
    call = called(GATED)
    sampled = {"seed": 5, "temperature": 1.0, "n": 2, "output_kind": kind}
    await asyncio.gather(*(answered(engine, call, prompt, **sampled) for prompt in REVIEWS))
    assert told(call) == {"tokens": 6 * 24, "guided": sum(one["guided"] for one in alone)}


@pytest.mark.parametrize("kind", [FINAL, DELTA])
async def test_alphas_are_told_by_prompt_and_choice(engine: DecodingEngine, kind: Any) -> None:
    sampled = {"temperature": 1.0, "ignore_eos": False}
    call, expected = called(FUSION), []
    for i, prompt in enumerate(REVIEWS[:2]):
        for choice in range(3):
            single = called(FUSION)
            await answered(engine, single, prompt, seed=5 + choice, max_tokens=8 + 5 * i, **sampled)
            expected.append({"prompt": i, "choice": choice, **told(single)})
    both = [
        answered(engine, call, prompt, seed=5, n=3, max_tokens=8 + 5 * i, output_kind=kind, **sampled)
        for i, prompt in enumerate(REVIEWS[:2])
    ]
    await asyncio.gather(*both)
    assert told(call) == {
        "tokens": sum(one["tokens"] for one in expected),
        "guided": sum(one["guided"] for one in expected),
        "sequences": expected,
    }
    assert len({str(one["alphas"]) for one in expected}) > 3


async def test_an_engine_that_cannot_tell_spoils_no_answer(
    engine: DecodingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("gone")

    monkeypatch.setattr(GuideWorker, "decant_take_outcome", fails)
    call = called(GENARM)
    assert count(await answered(engine, call)) == 24
    assert told(call) == {"tokens": 24}


async def test_an_engine_that_dies_before_it_tells_spoils_no_answer(
    engine: DecodingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying, over = threading.Event(), threading.Event()

    def dies(*_: Any) -> list[Any]:
        dying.set()
        over.wait(60)
        return []

    monkeypatch.setattr(GuideWorker, "decant_take_outcome", dies)
    call = called(GENARM)
    answer = asyncio.create_task(answered(engine, call))
    try:
        await asyncio.to_thread(dying.wait, 60)
        monkeypatch.setattr(engine.base.engine_core.resources, "engine_dead", True)
        assert count(await asyncio.wait_for(answer, 20)) == 24
    finally:
        over.set()
    assert told(call) == {"tokens": 24}


def test_outcomes_are_matched_by_their_tokens() -> None:
    long, other, short = Outcome([1, 2, 3, 4]), Outcome([1, 5]), Outcome([1, 2])
    found = matched([short, other, long], [[1, 2, 3, 4], [1, 2], [1, 5, 6]])
    assert [one is wanted for one, wanted in zip(found, (long, short, other), strict=True)] == [True] * 3
    assert matched([], [[1]]) == [Outcome()]
