"""Entropy-adaptive decoding over two real engines is the Hugging Face reference's, token for token."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import torch
from vllm.inputs import tokens_input
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from decoders.request import DecodingRequest
from server import embedded
from server.call import Call
from server.config import ServeSettings
from server.engine import DecodingEngine
from server.engines import create, describe, plan_engines
from server.metrics import EngineMetrics
from server.requests import CALL
from tests.decoders.sequence.reference import Expected, Reference
from tests.inproc import in_process

PROMPTS = (
    "What is the capital of",
    "Write a review of the hotel.",
    "<|user|>What is 14 + 27?<|assistant|>",
    "The colour of Braland is",
    "Tell me about the food in the",
)
RULES: tuple[dict[str, Any], ...] = (
    {"threshold": 1.0},
    {"threshold": 0.3, "window": 3, "dwell": 4},
    {"threshold": 1.5, "window": 1, "dwell": 1},
    {"threshold": 0.8, "window": 8, "dwell": 2},
    {"threshold": 0.5, "window": 64, "dwell": 3},
    {"threshold": 2.0, "window": 2, "dwell": 1, "start": "large"},
)
ROLES = {"small": "small", "large": "base"}
LENGTH = 48


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(str(embedded.path("small")), str(embedded.path("base")))


def engines_of(**arguments: Any) -> DecodingEngine:
    plans = plan_engines(ServeSettings(model=None, engine_args=arguments))
    with in_process():
        engines = {plan.name: create(plan, EngineMetrics()) for plan in plans}
    return DecodingEngine(engines, describe(plans, engines, "base"))


@pytest_asyncio.fixture(scope="session")  # shut down, an engine takes the process groups from all others
async def forgetful() -> AsyncIterator[DecodingEngine]:
    """Without prefix caching."""
    engine = engines_of(enable_prefix_caching=False)
    yield engine
    engine.shutdown()


@pytest_asyncio.fixture(scope="session")  # shut down, an engine takes the process groups from all others
async def tight() -> AsyncIterator[DecodingEngine]:
    """Long answers do not fit into the cache side by side, and prompts are cut into pieces."""
    engine = engines_of(
        num_gpu_blocks_override=22, max_num_batched_tokens=64, max_num_seqs=16, max_model_len=512
    )
    yield engine
    engine.shutdown()


class Run:
    """One request, and its report."""

    def __init__(self, engine: DecodingEngine, decoding: dict[str, Any]) -> None:
        self.engine = engine
        self.decoding = DecodingRequest.model_validate({"report": True, **decoding})
        self.decoding.admit(engine.deployment)
        self.report = self.decoding.new_report()
        self.outputs: list[RequestOutput] = []

    @property
    def sequence(self) -> dict[str, Any]:
        return self.report.layers["sequence"]

    async def __call__(self, prompt: str | list[int], request_id: str = "r", **params: Any) -> RequestOutput:
        settings = {"temperature": 0.0, "max_tokens": LENGTH, "ignore_eos": True}
        sampling = SamplingParams(
            **{"output_kind": RequestOutputKind.FINAL_ONLY, **settings, **params}  # type: ignore[arg-type]
        )
        sampling.extra_args = {CALL: Call(self.decoding, self.report)}
        ids = ids_of(self.engine, prompt) if isinstance(prompt, str) else prompt
        async for output in self.engine.generate(tokens_input(ids), sampling, request_id):
            self.outputs.append(output)
        return self.outputs[-1]


def ids_of(engine: DecodingEngine, prompt: str) -> list[int]:
    ids: list[int] = engine.renderer.tokenizer.encode(prompt)
    return ids


def ead(**parameters: Any) -> dict[str, Any]:
    return {"sequence": {"method": "ead", **parameters}}


def agree(expected: Expected, tokens: list[int], length: int = LENGTH) -> int:
    """Tokens compared: all that no tie puts in doubt."""
    assert len(tokens) == length
    assert tokens[: expected.decided] == expected.tokens[: expected.decided]
    return expected.decided


async def check_all(engine: DecodingEngine, reference: Reference, together: int) -> None:
    cases = [
        (prompt, {**rule, "switch": switch})
        for switch in ("next", "now")
        for rule in RULES
        for prompt in PROMPTS
    ]
    gate = asyncio.Semaphore(together)

    async def one(number: int, prompt: str, rule: dict[str, Any]) -> tuple[Run, list[int]]:
        async with gate:
            run = Run(engine, ead(**rule))
            output = await run(prompt, f"r{number}")
            return run, list(output.outputs[0].token_ids)

    results = await asyncio.gather(*(one(i, *case) for i, case in enumerate(cases)))
    compared = switches = 0
    for (prompt, rule), (run, tokens) in zip(cases, results, strict=True):
        expected = reference.run(ids_of(engine, prompt), LENGTH, **rule)
        compared += agree(expected, tokens)
        if not expected.tied:
            assert run.sequence["switches"] == expected.switches, (prompt, rule)
            counts = {ROLES[role]: expected.roles.count(role) for role in set(expected.roles)}
            assert run.sequence["tokens"] == counts
            switches += expected.switches
    assert len(cases) >= 60
    assert switches >= 400
    assert compared >= 0.95 * LENGTH * len(cases), "ties left too little to compare"


@pytest.mark.parametrize("together", [1, 16])
async def test_greedy_answers_are_the_references(
    engine: DecodingEngine, reference: Reference, together: int
) -> None:
    await check_all(engine, reference, together)


async def test_greedy_answers_without_prefix_caching_are_the_references(
    forgetful: DecodingEngine, reference: Reference
) -> None:
    await check_all(forgetful, reference, 8)


def preempted(engine: DecodingEngine) -> Iterator[int]:
    for one in engine.engines.values():
        scheduler = one.engine_core.engine_core.scheduler  # type: ignore[attr-defined]
        yield sum(request.num_preemptions for request in scheduler.requests.values())


async def test_sixteen_at_a_time_with_preemptions_are_the_references(
    tight: DecodingEngine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for name, one in tight.engines.items():
        scheduler = one.engine_core.engine_core.scheduler  # type: ignore[attr-defined]
        original = scheduler._preempt_request

        def note(*args: Any, _original: Any = original, _name: str = name, **kwargs: Any) -> Any:
            seen.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(scheduler, "_preempt_request", note)
    length = 150
    rule = {"threshold": 1.0, "window": 6, "dwell": 4}
    prompts = [[*ids_of(tight, PROMPTS[i % 5]), *range(40 + i, 60 + i)] for i in range(16)]
    rules = [{**rule, "switch": ("next", "now")[i % 2], "threshold": 0.5 + 0.1 * i} for i in range(16)]
    runs = [Run(tight, ead(**one)) for one in rules]
    outputs = await asyncio.gather(
        *(run(prompts[i], f"t{i}", max_tokens=length) for i, run in enumerate(runs))
    )
    assert len(seen) >= 5
    compared = 0
    for prompt, one, output in zip(prompts, rules, outputs, strict=True):
        expected = reference.run(prompt, length, **one)
        compared += agree(expected, list(output.outputs[0].token_ids), length)
    assert compared >= 0.8 * length * 16


# ---- the ends of the scale -----------------------------------------------------------------------------


@pytest.mark.parametrize("switch", ["next", "now"])
async def test_thresholds_beyond_every_entropy_leave_one_model(engine: DecodingEngine, switch: str) -> None:
    ceiling = math.log2(engine.model_config.get_vocab_size())
    for name, rule in (("small", {"threshold": ceiling}), ("base", {"threshold": -0.1, "start": "large"})):
        for prompt in PROMPTS:
            plain = await Run(engine, {"sequence": {"method": "plain", "engine": name}})(prompt)
            run = Run(engine, ead(**rule, switch=switch))
            output = await run(prompt)
            assert output.outputs[0].token_ids == plain.outputs[0].token_ids
            assert (run.sequence["switches"], run.sequence["recomputed_tokens"]) == (0, 0)
            assert run.sequence["tokens"] == {name: LENGTH}


async def test_an_answer_that_ends_by_itself_ends_here_too(
    engine: DecodingEngine, reference: Reference
) -> None:
    for prompt in ("<|user|>What is the capital of Tovand?<|assistant|>", PROMPTS[2]):
        run = Run(engine, ead(threshold=0.05, window=2, dwell=1))
        output = await run(prompt, ignore_eos=False)
        expected = reference.run(ids_of(engine, prompt), LENGTH, threshold=0.05, window=2, dwell=1)
        end = expected.tokens.index(engine.renderer.tokenizer.eos_token_id)
        assert end < expected.decided
        assert list(output.outputs[0].token_ids) == expected.tokens[: end + 1]
        assert output.outputs[0].finish_reason == "stop"
        assert output.outputs[0].stop_reason is None


# ---- what acts on the whole answer -----------------------------------------------------------------------

SWITCHY: dict[str, Any] = {"threshold": 1.0, "window": 2, "dwell": 1}


@pytest.mark.parametrize(
    "penalties",
    [
        {"frequency_penalty": 0.7},
        {"presence_penalty": 1.5},
        {"repetition_penalty": 1.3},
        {"frequency_penalty": -0.4, "presence_penalty": 0.9, "repetition_penalty": 0.8},
    ],
)
async def test_penalties_count_the_whole_answer(
    engine: DecodingEngine, reference: Reference, penalties: dict[str, float]
) -> None:
    switches = 0
    for prompt in PROMPTS:
        ids = ids_of(engine, prompt)

        def adjust(logits: torch.Tensor, answer: list[int], ids: list[int] = ids) -> torch.Tensor:
            logits = logits.clone()
            factor = penalties.get("repetition_penalty", 1.0)
            for token in {*ids, *answer}:
                logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
            for token in set(answer):
                logits[token] -= penalties.get("frequency_penalty", 0.0) * answer.count(token)
                logits[token] -= penalties.get("presence_penalty", 0.0)
            logits[engine.deployment.spare_token] = -math.inf
            return logits

        output = await Run(engine, ead(**SWITCHY))(prompt, **penalties)
        expected = reference.run(ids, LENGTH, **SWITCHY, adjust=adjust)
        assert agree(expected, list(output.outputs[0].token_ids)) > LENGTH // 2
        switches += expected.switches
    assert switches > 20


async def test_bad_words_are_kept_out_across_switches(engine: DecodingEngine) -> None:
    """A word of several tokens, which an answer with these switches holds."""
    tokenizer = engine.renderer.tokenizer
    kept = 0
    for prompt in PROMPTS:
        free = list((await Run(engine, ead(**SWITCHY))(prompt)).outputs[0].token_ids)
        for start in range(2, 20, 3):
            word = tokenizer.decode(free[start : start + 3])
            params = SamplingParams(bad_words=[word])
            params.update_from_tokenizer(tokenizer)
            bad = params.bad_words_token_ids or []
            if free[start : start + 3] not in bad:
                continue  # vLLM reads the text as other tokens
            held = list((await Run(engine, ead(**SWITCHY))(prompt, bad_words=[word])).outputs[0].token_ids)
            assert not any(held[i : i + len(one)] == one for one in bad for i in range(LENGTH))
            ends = [i + len(one) - 1 for one in bad for i in range(LENGTH) if free[i : i + len(one)] == one]
            assert held[: min(ends)] == free[: min(ends)]
            kept += 1
    assert kept >= 5


async def test_entropies_are_those_before_masks_and_biases(
    engine: DecodingEngine, reference: Reference
) -> None:
    prompt = PROMPTS[0]
    ids = ids_of(engine, prompt)
    allowed = sorted({*range(100, 400)})

    def adjust(logits: torch.Tensor, answer: list[int]) -> torch.Tensor:
        masked = torch.full_like(logits, -math.inf)
        masked[allowed] = logits[allowed]
        masked[150] += 2.0
        return masked

    for switch in ("next", "now"):
        rule = {"threshold": 3.0, "window": 3, "dwell": 2, "switch": switch}
        run = Run(engine, ead(**rule, trace=True))
        output = await run(prompt, allowed_token_ids=allowed, logit_bias={150: 2.0})
        expected = reference.run(ids, LENGTH, **rule, adjust=adjust)
        assert agree(expected, list(output.outputs[0].token_ids)) > LENGTH // 2
        count = expected.decided
        assert run.sequence["traces"][0]["entropies"][:count] == pytest.approx(
            expected.entropies[:count], abs=1e-3
        )


@pytest.mark.parametrize("switch", ["next", "now"])
async def test_the_trace_holds_every_entropy_and_segment(
    engine: DecodingEngine, reference: Reference, switch: str
) -> None:
    rule = {"threshold": 1.0, "window": 4, "dwell": 3, "switch": switch}
    run = Run(engine, ead(**rule, trace=True))
    await run(PROMPTS[0])
    expected = reference.run(ids_of(engine, PROMPTS[0]), LENGTH, **rule)
    assert not expected.tied
    (trace,) = run.sequence["traces"]
    assert trace["entropies"] == pytest.approx(expected.entropies, abs=1e-3)
    named = [name for part in trace["segments"] for name in [part["engine"]] * part["tokens"]]
    assert named == [ROLES[role] for role in expected.roles]
    assert len(trace["segments"]) == expected.switches + 1


async def test_min_tokens_hold_across_switches(engine: DecodingEngine) -> None:
    prompt = "<|user|>What is the capital of Tovand?<|assistant|>"
    free = await Run(engine, ead(**SWITCHY))(prompt, ignore_eos=False)
    least = len(free.outputs[0].token_ids) + 12
    run = Run(engine, ead(**SWITCHY))
    held = await run(prompt, ignore_eos=False, min_tokens=least, max_tokens=80)
    assert run.sequence["switches"] > 1
    eos = engine.renderer.tokenizer.eos_token_id
    assert eos not in list(held.outputs[0].token_ids)[: least - 1]
    assert len(held.outputs[0].token_ids) >= least


async def test_logprobs_are_the_models_own(engine: DecodingEngine, reference: Reference) -> None:
    output = await Run(engine, ead(**SWITCHY))(PROMPTS[1], logprobs=3)
    ids = ids_of(engine, PROMPTS[1])
    expected = reference.run(ids, LENGTH, **SWITCHY)
    choice = output.outputs[0]
    assert len(choice.logprobs) == LENGTH
    for i in range(expected.decided):
        right = reference.logits(expected.roles[i], ids + expected.tokens[:i]).log_softmax(-1)
        for token, entry in choice.logprobs[i].items():
            assert entry.logprob == pytest.approx(float(right[token]), abs=1e-4)


async def test_choices_differ_and_come_again_with_their_seed(engine: DecodingEngine) -> None:
    async def texts() -> list[str]:
        output = await Run(engine, ead(**SWITCHY, trace=True))(PROMPTS[1], n=3, temperature=1.0, seed=7)
        return [choice.text for choice in output.outputs]

    first = await texts()
    assert len(set(first)) == 3
    assert await texts() == first


async def test_traces_of_several_choices_are_told_apart(engine: DecodingEngine) -> None:
    run = Run(engine, ead(**SWITCHY, trace=True))
    output = await run(PROMPTS[1], n=3, temperature=1.0, seed=7)
    traces = run.sequence["traces"]
    assert [trace["choice"] for trace in traces] == [0, 1, 2]
    assert [len(trace["entropies"]) for trace in traces] == [len(one.token_ids) for one in output.outputs]
    assert run.sequence["switches"] == sum(len(trace["segments"]) - 1 for trace in traces)


async def test_a_stop_string_across_segments_ends_the_answer(engine: DecodingEngine) -> None:
    text = (await Run(engine, ead(**SWITCHY))(PROMPTS[1])).outputs[0].text
    for start in (5, 21, 40):
        stop = text[start : start + 7]
        run = Run(engine, ead(**SWITCHY, trace=True))
        choice = (await run(PROMPTS[1], stop=[stop])).outputs[0]
        assert (choice.text, choice.finish_reason, choice.stop_reason) == (
            text[: text.index(stop)],
            "stop",
            stop,
        )
        assert len(run.sequence["traces"][0]["entropies"]) == len(choice.token_ids)


async def test_deltas_add_up(engine: DecodingEngine) -> None:
    final = (await Run(engine, ead(**SWITCHY))(PROMPTS[0])).outputs[0]
    run = Run(engine, ead(**SWITCHY))
    await run(PROMPTS[0], output_kind=RequestOutputKind.DELTA)
    assert "".join(output.outputs[0].text for output in run.outputs) == final.text
    assert len(run.outputs) > LENGTH // 3


@pytest.mark.parametrize("switch", ["next", "now"])
async def test_a_switch_computes_only_what_the_engine_has_not_seen(
    engine: DecodingEngine, switch: str
) -> None:
    """To the token: no block is computed again because it was not full."""
    prompt = [11 if switch == "now" else 12, *range(300, 377), *ids_of(engine, PROMPTS[0])]
    run = Run(engine, ead(threshold=1.0, window=2, dwell=4, switch=switch, trace=True))
    await run(prompt)
    segments = run.sequence["traces"][0]["segments"]
    assert len(segments) >= 4
    seen: dict[str, int] = {}
    expected, written = 0, len(prompt)
    for number, segment in enumerate(segments):
        if number:
            expected += written - seen.get(segment["engine"], 0)
        written += segment["tokens"]
        # A last token that was marked as such was never fed to its own model.
        seen[segment["engine"]] = written - (switch == "next")
    assert run.sequence["recomputed_tokens"] == expected


async def test_a_segment_ends_with_its_last_token(
    engine: DecodingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step is spent on a token that only says so, where the other model takes over after a token."""
    inner = engine.engines["small"].engine_core.engine_core.scheduler  # type: ignore[attr-defined]
    scheduled, schedule = [], inner.schedule

    def note(*args: Any, **kwargs: Any) -> Any:
        step = schedule(*args, **kwargs)
        scheduled.append(len(step.num_scheduled_tokens))
        return step

    monkeypatch.setattr(inner, "schedule", note)
    run = Run(engine, ead(threshold=1.0, window=2, dwell=4))
    await run([*range(400, 420), *ids_of(engine, PROMPTS[0])])
    assert run.sequence["switches"] >= 3
    assert sum(scheduled) == run.sequence["tokens"]["small"]


async def test_nothing_is_left_in_the_engines(engine: DecodingEngine) -> None:
    stream = Run(engine, ead(**SWITCHY))
    task = asyncio.create_task(stream(PROMPTS[1], max_tokens=1000))
    await asyncio.sleep(0.3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for _ in range(200):  # an abort takes an engine step
        if not any(one.output_processor.has_unfinished_requests() for one in engine.engines.values()):
            break
        await asyncio.sleep(0.05)
    for one in engine.engines.values():
        assert not one.output_processor.has_unfinished_requests()
    assert not engine.active
