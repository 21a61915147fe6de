"""The policy of `auto` over real engines: what is chosen, why, and that it is what then runs."""

import asyncio
from typing import Any

import pytest
from vllm.sampling_params import SamplingParams

from decoders.deployment import Deployment, EngineFacts
from decoders.errors import Refusal
from decoders.method import Circumstances
from decoders.report import Report
from decoders.request import DecodingRequest
from decoders.sequence.auto import Auto
from server.engine import DecodingEngine
from tests.decoders.sequence.test_ead import PROMPTS, Run, ead

EAD = ead(threshold=1.0, window=2, dwell=1)["sequence"]


def auto(**parameters: Any) -> dict[str, Any]:
    return {"sequence": {"method": "auto", **parameters}}


def deployment(speculates: bool) -> Deployment:
    facts = {
        "large": EngineFacts("l", 2048, switches=True),
        "small": EngineFacts("s", 2048, switches=True),
        "drafted": EngineFacts("l", 2048, speculative="ngram" if speculates else None),
    }
    return Deployment("large", facts, spare_token=0)


def chosen(method: Auto, speculates: bool = False, **over: Any) -> tuple[str, str]:
    given = {"running": 0, "prompt_tokens": 10, "params": SamplingParams(), **over}
    report = Report()
    resolved = method.resolve(Circumstances(deployment(speculates), **given), report)
    layer = report.layer("sequence")
    assert layer["chosen"]["method"] == resolved.method
    return resolved.method, layer["reason"]


def test_without_ead_the_engine_that_speculates_or_none() -> None:
    method = Auto(method="auto")
    assert chosen(method)[0] == "plain"
    assert chosen(method, speculates=True)[0] == "speculative"


@pytest.mark.parametrize("speculates", [False, True])
def test_ead_within_its_bounds_only(speculates: bool) -> None:
    method = Auto.model_validate(
        {**auto(quality=0.97, ead=EAD, ead_quality=0.98, ead_load=2, ead_prompt_tokens=50)["sequence"]}
    )
    other = "speculative" if speculates else "plain"
    assert chosen(method, speculates)[0] == "ead"
    assert chosen(method, speculates, running=2, prompt_tokens=50)[0] == "ead"
    for over, word in (({"running": 3}, "3 other requests"), ({"prompt_tokens": 51}, "51 tokens")):
        name, reason = chosen(method, speculates, **over)
        assert name == other
        assert word in reason
    name, reason = chosen(method, speculates, params=SamplingParams(prompt_logprobs=1))
    assert (name, "prompt_logprobs" in reason) == (other, True)
    name, reason = chosen(method.model_copy(update={"quality": 0.99}), speculates)
    assert (name, "0.99 is wanted" in reason) == (other, True)


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"ead": EAD}, "decoding.sequence.ead_quality"),
        ({"ead_quality": 0.9}, "decoding.sequence.ead_quality"),
        ({"ead": {**EAD, "small": "tiny"}, "ead_quality": 1}, "decoding.sequence.ead.small"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    engine: DecodingEngine, parameters: dict[str, Any], param: str
) -> None:
    with pytest.raises(Refusal) as caught:
        DecodingRequest.model_validate(auto(**parameters)).admit(engine.deployment)
    assert caught.value.param == param


async def test_what_was_chosen_runs(engine: DecodingEngine) -> None:
    asked = auto(quality=0.9, ead=EAD, ead_quality=0.95, ead_load=0)
    run = Run(engine, asked)
    answer = await run(PROMPTS[0])
    adaptive, plain = Run(engine, ead(threshold=1.0, window=2, dwell=1)), Run(engine, {})
    assert answer.outputs[0].token_ids == (await adaptive(PROMPTS[0])).outputs[0].token_ids
    assert run.sequence["method"] == "auto"
    assert run.sequence["chosen"]["method"] == "ead"
    assert run.sequence["tokens"] == adaptive.sequence["tokens"]
    assert run.sequence["switches"] > 0
    # With another request running, EAD is over its load.
    beside = Run(engine, {})
    busy = asyncio.create_task(beside(PROMPTS[1], "busy", max_tokens=400))
    while not engine.active:  # noqa: ASYNC110 (nothing tells)
        await asyncio.sleep(0.01)
    late = Run(engine, asked)
    assert (await late(PROMPTS[0])).outputs[0].token_ids == (await plain(PROMPTS[0])).outputs[0].token_ids
    assert late.sequence["chosen"]["method"] == "plain"
    await busy
