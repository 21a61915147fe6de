"""DecodingEngine over real engines: plain requests pass through, a method's chunks become vLLM's outputs."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Literal

import httpx
import pytest
from vllm.engine.protocol import EngineClient
from vllm.exceptions import VLLMValidationError
from vllm.inputs import tokens_input
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from decoders.method import Chunk, Job, SequenceMethod
from decoders.request import DecodingRequest, decoding_model
from decoders.sequence.plain import Plain
from server.app import build_app
from server.call import Call
from server.config import ServeSettings
from server.engine import DecodingEngine
from server.metrics import EngineMetrics
from server.requests import CALL

FINAL = RequestOutputKind.FINAL_ONLY
DELTA = RequestOutputKind.DELTA


class Relay(SequenceMethod):
    """Engines take turns of `turn` tokens each: what a switching method does, with nothing left to chance."""

    method: Literal["relay"]
    turn: int = 4
    path: tuple[str, ...] = ("base", "base")
    fails_after: int = 10**9
    forgets_to_finish: bool = False

    async def generate(self, job: Job, engines: Mapping[str, EngineClient]) -> AsyncGenerator[Chunk, None]:
        tokens, emitted, turns = list(job.prompt_token_ids), 0, 0
        while emitted < job.params.max_tokens:
            if turns >= self.fails_after:
                raise ValueError("the relay fell")
            name = self.path[turns % len(self.path)]
            params = job.params.clone()
            params.n, params.output_kind, params.stop, params.detokenize = 1, DELTA, [], False
            params.output_text_buffer_length = 0
            params.max_tokens = min(self.turn, job.params.max_tokens - emitted)
            outputs = engines[name].generate(tokens_input(tokens), params, f"{job.id}/{turns}")
            async with aclosing(outputs) as stream:
                async for output in stream:
                    choice = output.outputs[0]
                    emitted += len(choice.token_ids)
                    tokens = [*tokens, *choice.token_ids]
                    done = choice.finish_reason == "stop" or emitted >= job.params.max_tokens
                    reason = choice.finish_reason if done and not self.forgets_to_finish else None
                    logprobs = list(choice.logprobs) if choice.logprobs else None
                    yield Chunk(list(choice.token_ids), name, logprobs, reason, choice.stop_reason)
                    if done:
                        return
            turns += 1


MODEL = decoding_model([Plain, Relay])
PLAIN: dict[str, Any] = {}


def relay(**parameters: Any) -> dict[str, Any]:
    return {"sequence": {"method": "relay", **parameters}}


class Run:
    """One request to the engine under test, and what came back."""

    def __init__(self, engine: DecodingEngine, decoding: dict[str, Any]) -> None:
        self.engine = engine
        self.decoding = MODEL.model_validate(decoding)
        self.report = self.decoding.new_report()
        self.outputs: list[RequestOutput] = []

    def stream(self, request_id: str = "r", prompt: str = "What is the capital of", **params: Any) -> Any:
        settings = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True, "output_kind": FINAL, **params}
        sampling = SamplingParams(**settings)
        sampling.extra_args = {CALL: Call(self.decoding, self.report)}
        ids = self.engine.renderer.tokenizer.encode(prompt)
        return self.engine.generate(tokens_input(ids), sampling, request_id)

    async def __call__(self, **options: Any) -> RequestOutput:
        async for output in self.stream(**options):
            self.outputs.append(output)
        return self.outputs[-1]


async def test_plain_is_the_engines_own_answer(engine: DecodingEngine) -> None:
    for name in ("base", "small"):
        run = Run(engine, {"sequence": {"method": "plain", "engine": name}})
        through = await run(request_id=f"p-{name}")
        ids = engine.renderer.tokenizer.encode("What is the capital of")
        params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, output_kind=FINAL)
        outputs = [o async for o in engine.engines[name].generate(tokens_input(ids), params, f"a-{name}")]
        assert through.outputs[0].token_ids == outputs[-1].outputs[0].token_ids
        assert run.report.layers == {"sequence": {"method": "plain", "engine": name, "tokens": {name: 24}}}


async def test_the_default_engine_runs_requests_that_name_none(engine: DecodingEngine) -> None:
    run = Run(engine, PLAIN)
    await run()
    assert run.report.layers["sequence"]["tokens"] == {"base": 24}


@pytest.mark.parametrize("turn", [1, 5, 32])
async def test_chunks_of_one_engine_make_its_own_answer(engine: DecodingEngine, turn: int) -> None:
    plain = (await Run(engine, PLAIN)(logprobs=2)).outputs[0]
    chunked = (await Run(engine, relay(turn=turn))(logprobs=2)).outputs[0]
    assert (chunked.text, list(chunked.token_ids), chunked.finish_reason) == (
        plain.text,
        list(plain.token_ids),
        plain.finish_reason,
    )
    for ours, theirs in zip(chunked.logprobs, plain.logprobs, strict=True):
        assert list(ours) == list(theirs)
        for token in ours:
            assert ours[token].logprob == pytest.approx(theirs[token].logprob, abs=1e-4)
            assert ours[token].decoded_token == theirs[token].decoded_token
            assert ours[token].rank == theirs[token].rank


async def test_deltas_add_up_to_the_final_text(engine: DecodingEngine) -> None:
    final = (await Run(engine, relay(turn=3))()).outputs[0]
    run = Run(engine, relay(turn=3))
    last = await run(output_kind=DELTA)
    assert "".join(output.outputs[0].text for output in run.outputs) == final.text
    assert [token for output in run.outputs for token in output.outputs[0].token_ids] == list(final.token_ids)
    assert (last.finished, last.outputs[0].finish_reason) == (True, "length")


async def test_a_stop_string_across_chunks_ends_the_answer(engine: DecodingEngine) -> None:
    text = (await Run(engine, PLAIN)()).outputs[0].text
    for start in (7, 12, 20):
        stop = text[start : start + 6]
        end = text.index(stop)
        run = Run(engine, relay(turn=2))
        choice = (await run(stop=[stop])).outputs[0]
        assert (choice.text, choice.finish_reason, choice.stop_reason) == (text[:end], "stop", stop)
        assert sum(run.report.layers["sequence"]["tokens"].values()) < 24


async def test_tokens_are_reported_by_engine(engine: DecodingEngine) -> None:
    run = Run(engine, relay(turn=5, path=("small", "base")))
    choice = (await run(max_tokens=18)).outputs[0]
    assert len(choice.token_ids) == 18
    assert run.report.layers["sequence"]["tokens"] == {"small": 10, "base": 8}


async def test_choices_of_one_request_are_told_apart_and_seeded(engine: DecodingEngine) -> None:
    async def texts() -> list[str]:
        out = await Run(engine, relay(turn=6))(n=3, temperature=1.0, seed=5)
        assert [choice.index for choice in out.outputs] == [0, 1, 2]
        return [choice.text for choice in out.outputs]

    first = await texts()
    assert len(set(first)) == 3
    assert await texts() == first


async def test_a_method_that_fails_fails_its_request_alone(engine: DecodingEngine) -> None:
    failing, sound = Run(engine, relay(turn=2, fails_after=3)), Run(engine, relay(turn=2))
    results = await asyncio.gather(failing(request_id="f"), sound(request_id="s"), return_exceptions=True)
    assert isinstance(results[0], ValueError)
    assert isinstance(results[1], RequestOutput)
    assert not engine.active
    assert not engine.output_processor.has_unfinished_requests()


async def test_a_method_that_forgets_to_finish_still_ends(engine: DecodingEngine) -> None:
    output = await asyncio.wait_for(Run(engine, relay(forgets_to_finish=True))(), 30)
    assert (output.finished, len(output.outputs[0].token_ids)) == (True, 24)


@pytest.mark.parametrize("decoding", [PLAIN, relay(turn=4)])
async def test_a_client_that_leaves_frees_the_engines(
    engine: DecodingEngine, decoding: dict[str, Any]
) -> None:
    stream = Run(engine, decoding).stream(output_kind=DELTA, max_tokens=1500)
    await anext(stream)
    await stream.aclose()
    for one in engine.engines.values():
        for _ in range(100):
            if not one.output_processor.has_unfinished_requests():
                break
            await asyncio.sleep(0.05)
        assert not one.output_processor.has_unfinished_requests()
    assert not engine.active


@pytest.mark.parametrize("decoding", [PLAIN, relay(turn=4)])
@pytest.mark.parametrize("kind", [DELTA, FINAL])
async def test_abort_delivers_what_there_is(
    engine: DecodingEngine, decoding: dict[str, Any], kind: Any
) -> None:
    run = Run(engine, decoding)
    task = asyncio.create_task(run(output_kind=kind, max_tokens=1500))
    await asyncio.sleep(0.5)
    assert await engine.abort_all() == 1
    engine.closed = False
    output = await asyncio.wait_for(task, 20)
    assert (output.finished, output.outputs[0].finish_reason) == (True, "abort")
    tokens = [t for o in run.outputs for t in o.outputs[0].token_ids]
    assert 0 < len(tokens) < 1500


async def test_requests_to_both_engines_at_once_are_those_run_alone(engine: DecodingEngine) -> None:
    kinds = [
        PLAIN,
        {"sequence": {"method": "plain", "engine": "small"}},
        relay(turn=3, path=("small", "base")),
    ]
    alone = [(await Run(engine, kind)()).outputs[0].text for kind in kinds]
    runs = [Run(engine, kinds[i % 3])(request_id=f"m{i}") for i in range(18)]
    together = await asyncio.gather(*runs)
    assert [output.outputs[0].text for output in together] == alone * 6


async def test_a_prompt_over_the_limit_is_refused(engine: DecodingEngine) -> None:
    bounded = DecodingEngine(engine.engines, engine.deployment, prompt_tokens=3)
    with pytest.raises(VLLMValidationError, match="at most 3"):
        await Run(bounded, PLAIN)()


async def test_a_question_over_the_limit_is_not_ranked(engine: DecodingEngine) -> None:
    bounded = DecodingEngine(engine.engines, engine.deployment, prompt_tokens=3)
    app = build_app(bounded, ServeSettings(model=None), EngineMetrics())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        body = {"model": "demo", "prompt": "What is the capital of Tovand?", "candidates": ["a", "b"]}
        response = await client.post("/v1/rank", json=body)
    assert response.status_code == 400
    assert "at most 3" in response.json()["error"]["message"]


async def test_a_priority_nobody_would_honour_is_refused(engine: DecodingEngine) -> None:
    params = SamplingParams(max_tokens=1)
    with pytest.raises(VLLMValidationError, match="priority"):
        async for _ in engine.generate(tokens_input([5, 6]), params, "x", priority=3):
            pass


async def test_a_request_without_a_call_is_plain(engine: DecodingEngine) -> None:
    params = SamplingParams(max_tokens=3, temperature=0.0, output_kind=FINAL, ignore_eos=True)
    async for output in engine.generate(tokens_input([5, 6, 7]), params, "bare"):
        assert len(output.outputs[0].token_ids) == 3
    assert params.extra_args is None


async def test_the_control_plane_reaches_every_engine(engine: DecodingEngine) -> None:
    await engine.check_health()
    assert await engine.reset_prefix_cache()
    assert engine.is_running
    assert engine.dead_engines() == []
    assert DecodingRequest().sequence is None
