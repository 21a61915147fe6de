"""Scores of candidates on a shared prompt are a Hugging Face model's in float64, whatever the cache holds."""

import asyncio
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from vllm.sampling_params import SamplingParams

from decoders.cache import settings as cache
from decoders.logits.guidance import Guidance
from decoders.logits.wire import KEY
from decoders.method import Job
from decoders.report import Report
from decoders.request import DecodingRequest
from decoders.sequence.candidates.choosing import Desk
from decoders.sequence.candidates.scoring import MOST_LABELS, Scores, _Scorer, score
from server import embedded
from server.engine import DecodingEngine
from tests.decoders.sequence.candidates.reference import Reference

BLOCK = 32
NUMBERS = count()


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(str(embedded.path("base")))


@pytest.fixture(scope="module")
def words(reference: Reference) -> list[int]:
    text = "What is the capital of Tovand? The capital of Tovand is Vamburg. I like the hotel and the food. "
    ids: list[int] = reference.tokenizer.encode(text * 12, add_special_tokens=False)
    return ids


async def scored(
    engine: DecodingEngine, prompt: list[int], candidates: list[list[int]], **options: Any
) -> Scores:
    return await score(engine.engines["base"], prompt, candidates, id=f"score-{next(NUMBERS)}", **options)


def require(found: Scores, reference: Reference, prompt: list[int], candidates: list[list[int]]) -> None:
    assert len(found.logprobs) == len(candidates)
    for one, row in zip(candidates, found.logprobs, strict=True):
        assert row == pytest.approx(reference.rows(prompt, one) if one else [], abs=1e-4)


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, 4 * BLOCK + 7])
async def test_cold_warm_and_with_the_candidates_cached(
    engine: DecodingEngine, reference: Reference, words: list[int], length: int
) -> None:
    prompt = words[:length]
    long = words[200 : 200 + 2 * BLOCK + 3]  # whole blocks of a candidate come to lie in the cache
    candidates = [words[40:50], words[50:51], long, words[40:45], []]
    await engine.reset_prefix_cache()
    for _ in range(3):
        found = await scored(engine, prompt, candidates)
        require(found, reference, prompt, candidates)
    assert found.cached == length - 1
    # The prompt's last token, and the candidates that have a token behind their first.
    assert found.computed == 1 + sum(len(one) for one in candidates if len(one) > 1)


@pytest.mark.parametrize("length", [500, 16 * BLOCK])
async def test_the_prompt_is_computed_once_to_the_token(
    engine: DecodingEngine, reference: Reference, words: list[int], length: int
) -> None:
    prompt = (words * 3)[:length]
    candidates = [words[i : i + 10] for i in range(30, 70, 5)]
    await engine.reset_prefix_cache()
    cold = await scored(engine, prompt, candidates)
    require(cold, reference, prompt, candidates)
    assert (cold.computed, cold.cached) == (length + 80, 0)
    warm = await scored(engine, prompt, candidates)
    require(warm, reference, prompt, candidates)
    assert (warm.computed, warm.cached) == (1 + 80, length - 1)


async def test_many_at_once(engine: DecodingEngine, reference: Reference, words: list[int]) -> None:
    prompts = [words[i : i + 70] for i in range(16)]
    candidates = [words[100:108], words[108:111], words[111:121]]
    await engine.reset_prefix_cache()
    results = await asyncio.gather(*(scored(engine, prompt, candidates) for prompt in prompts))
    for prompt, found in zip(prompts, results, strict=True):
        require(found, reference, prompt, candidates)


async def test_candidates_that_repeat_or_begin_with_each_other(
    engine: DecodingEngine, reference: Reference, words: list[int]
) -> None:
    candidates = [words[10:14], words[10:14], words[10:12], words[10:18]]
    found = await scored(engine, words[:50], candidates)
    require(found, reference, words[:50], candidates)
    assert found.logprobs[0] == found.logprobs[1]


async def test_more_first_tokens_than_one_request_takes(
    engine: DecodingEngine, reference: Reference, words: list[int]
) -> None:
    candidates = [[token] for token in range(20, 20 + MOST_LABELS + 30)]
    require(await scored(engine, words[:40], candidates), reference, words[:40], candidates)


async def test_guided_scores_and_a_guide_alone(
    engine: DecodingEngine, reference: Reference, words: list[int]
) -> None:
    import torch

    guide = Reference(str(embedded.path("polite")))
    prompt, candidates = words[:45], [words[60:66], words[70:72]]
    for name, guidance in (("mixed", Guidance(weights={"polite": 0.5})), ("alone", Guidance(alone="polite"))):
        extra = {KEY: guidance.to_wire()}
        found = await scored(engine, prompt, candidates, extra_args=extra, cache_salt=f"guides-{name}")
        for one, row in zip(candidates, found.logprobs, strict=True):
            with torch.inference_mode():
                tokens = torch.tensor([[*prompt, *one]])
                base, polite = [
                    m.model(tokens).logits[0].double().log_softmax(-1) for m in (reference, guide)
                ]
            logs = polite if name == "alone" else (base + 0.5 * polite).log_softmax(-1)
            wanted = [float(logs[len(prompt) + i - 1, token]) for i, token in enumerate(one)]
            assert row == pytest.approx(wanted, abs=1e-4)


async def test_scores_are_of_the_whole_context_whatever_the_samples_read(
    engine: DecodingEngine, reference: Reference, words: list[int]
) -> None:
    prompt, candidates = words[:300], [words[40:50], words[100:107]]
    settings = DecodingRequest.model_validate({"cache": {"method": "streaming", "budget": 0.2}})
    assert settings.cache is not None
    arguments = {**settings.cache.engine_arguments(), cache.REPORT: "scores"}
    params = SamplingParams(extra_args=arguments)
    job = Job("whole", prompt, params, Report(), engine.deployment)
    found = await Desk(job, engine.engines["base"], "base").score(prompt, candidates)
    require(found, reference, prompt, candidates)


async def test_cancelling_ends_every_request(engine: DecodingEngine, words: list[int]) -> None:
    work = [
        asyncio.create_task(scored(engine, words[i : i + 150], [words[:9], words[9:20]])) for i in range(40)
    ]
    await asyncio.sleep(0.05)
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    base: Any = engine.engines["base"]
    for _ in range(100):
        if not base.output_processor.has_unfinished_requests():
            break
        await asyncio.sleep(0.05)
    assert not base.output_processor.has_unfinished_requests()


def entry(logprob: float) -> SimpleNamespace:
    return SimpleNamespace(logprob=logprob)


@pytest.mark.parametrize("row", [None, {}, {999: entry(-1.0)}, {6: entry(float("nan"))}, {6: entry(0.5)}])
async def test_a_row_that_was_never_written_is_asked_for_again(row: Any) -> None:
    """Such rows hold whatever lay in memory: another token, no number, or no logarithm of a probability."""
    scorer = _Scorer(mock.Mock(), [1, 2, 3], "x", None, 0, None)
    sound = {6: entry(-0.25)}
    asked = []

    async def answer(tokens: list[int], params: Any) -> Any:
        asked.append(params.skip_reading_prefix_cache)
        return SimpleNamespace(
            num_cached_tokens=0, prompt_logprobs=[None] * 4 + [sound if len(asked) == 2 else row]
        )

    with mock.patch.object(scorer, "_ask", answer):
        assert await scorer.rest((5, 6)) == [-0.25]
    assert asked == [False, True]


async def test_rows_behind_cached_positions_are_not_believed() -> None:
    scorer = _Scorer(mock.Mock(), [1, 2, 3], "x", None, 0, None)
    outputs = [(4, -9.0), (0, -0.5)]  # tokens cached, and the row's value

    async def answer(tokens: list[int], params: Any) -> Any:
        cached, value = outputs.pop(0)
        return SimpleNamespace(num_cached_tokens=cached, prompt_logprobs=[None] * 4 + [{6: entry(value)}])

    with mock.patch.object(scorer, "_ask", answer):
        assert await scorer.rest((5, 6)) == [-0.5]
