"""Prefix-cache hits to the token in a real engine: what is found, and that nothing changes by it."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from vllm.engine.protocol import EngineClient
from vllm.inputs import tokens_input
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from decoders.prefix.limit import limit_arguments
from server.config import ServeSettings
from server.engine import DecodingEngine
from server.engines import create, plan_engines
from server.metrics import EngineMetrics
from tests.inproc import in_process

BLOCK = 32
TOKENS = random.Random(5)


def some(count: int) -> list[int]:
    """A prompt that no other test has."""
    return [TOKENS.randrange(10, 900) for _ in range(count)]


async def ask(
    engine: EngineClient, ids: list[int], name: str, count: int = 8, salt: str | None = None, **params: Any
) -> RequestOutput:
    sampling = SamplingParams(
        temperature=0.0,
        detokenize=False,
        max_tokens=count,
        ignore_eos=True,
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **params,
    )
    outputs = [output async for output in engine.generate(tokens_input(ids, cache_salt=salt), sampling, name)]
    return outputs[-1]


def tokens(output: RequestOutput) -> list[int]:
    return list(output.outputs[0].token_ids)


def logprobs(output: RequestOutput) -> list[float]:
    found = output.outputs[0].logprobs
    assert found is not None
    return [next(iter(position.values())).logprob for position in found]


def base(engine: DecodingEngine) -> EngineClient:
    return engine.engines["base"]


def scheduler(engine: EngineClient) -> Any:
    return engine.engine_core.engine_core.scheduler  # type: ignore[attr-defined]


@pytest_asyncio.fixture(scope="session")  # shut down, an engine takes the process groups from all others
async def tiny() -> AsyncIterator[EngineClient]:
    """20 blocks, so that requests are preempted and blocks are given away."""
    settings = ServeSettings(
        model=None,
        engine_args={"num_gpu_blocks_override": 20, "max_num_batched_tokens": 64, "max_model_len": 256},
    )
    plan = next(plan for plan in plan_engines(settings) if plan.name == "small")
    with in_process():
        engine = create(plan, EngineMetrics())
    yield engine
    engine.shutdown()


async def test_hits_end_where_the_tokens_differ(engine: DecodingEngine) -> None:
    one = base(engine)
    prompt = some(2 * BLOCK + 21)
    first = await ask(one, prompt, "a")
    assert first.num_cached_tokens == 0
    answer = tokens(first)
    again = await ask(one, prompt, "b")
    assert again.num_cached_tokens == len(prompt) - 1  # the last token is computed for its logits
    assert tokens(again) == answer
    longer = await ask(one, [*prompt, *answer, 7, 8], "c")
    assert longer.num_cached_tokens == len(prompt) + len(answer) - 1  # the last one was never computed
    other = await ask(one, [*prompt[: 2 * BLOCK + 5], 11, 12], "d")
    assert other.num_cached_tokens == 2 * BLOCK + 5
    short = some(9)
    await ask(one, short, "e", 3)
    assert (await ask(one, [*short, 4], "f", 3)).num_cached_tokens == 9


async def test_the_block_in_which_a_prompt_ends_serves_others_though_its_answer_filled_it(
    engine: DecodingEngine,
) -> None:
    one = base(engine)
    prompt = some(BLOCK + 10)
    await ask(one, prompt, "a", 2 * BLOCK)
    assert (await ask(one, [*prompt, 5, 6], "b")).num_cached_tokens == len(prompt)


@pytest.mark.parametrize("length", [5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
async def test_answers_are_those_of_a_cold_cache(engine: DecodingEngine, length: int) -> None:
    one = base(engine)
    start = some(length)
    prompts = [[*start, *some(9)] for _ in range(4)]
    await one.reset_prefix_cache()
    cold = []
    for i, prompt in enumerate(prompts):
        cold.append(await ask(one, prompt, f"cold{i}", skip_reading_prefix_cache=True))
        assert cold[-1].num_cached_tokens == 0
    await one.reset_prefix_cache()
    await ask(one, start, "start", 1)
    warm = await asyncio.gather(*(ask(one, prompt, f"warm{i}") for i, prompt in enumerate(prompts)))
    for expected, output in zip(cold, warm, strict=True):
        assert output.num_cached_tokens == length
        assert tokens(output) == tokens(expected)
        assert logprobs(output) == pytest.approx(logprobs(expected), abs=1e-5)


async def test_what_is_being_computed_is_not_copied(engine: DecodingEngine) -> None:
    """vLLM's table has a full block in the step that computes it: only older ones are copied."""
    one = base(engine)
    start, rest = some(BLOCK - 1), some(10)
    prompts = [[*start, *rest[:count]] for count in (10, 8, 6, 4)]
    options = {"prompt_logprobs": 0, "skip_reading_prefix_cache": False}
    cold = [await ask(one, prompt, "cold", prompt_logprobs=0) for prompt in prompts]
    for _ in range(3):
        await one.reset_prefix_cache()
        await ask(one, start, "start", 1)
        warm = await asyncio.gather(
            *(
                ask(one, prompt, f"w{i}", extra_args=limit_arguments(BLOCK - 1), **options)
                for i, prompt in enumerate(prompts)
            )
        )
        for prompt, expected, output in zip(prompts, cold, warm, strict=True):
            assert output.num_cached_tokens == BLOCK - 1
            assert expected.prompt_logprobs is not None
            assert output.prompt_logprobs is not None
            for position in range(BLOCK, len(prompt)):
                wanted, found = (
                    o.prompt_logprobs[position][prompt[position]].logprob for o in (expected, output)
                )
                assert found == pytest.approx(wanted, abs=1e-5)


async def test_requests_with_another_salt_share_nothing(engine: DecodingEngine) -> None:
    one = base(engine)
    for prompt in (some(9), some(BLOCK + 9)):
        await ask(one, prompt, "a", salt="mine")
        for salt in (None, "yours"):
            assert (await ask(one, prompt, "b", salt=salt)).num_cached_tokens == 0
        assert (await ask(one, prompt, "c", salt="mine")).num_cached_tokens == len(prompt) - 1


async def test_prompt_logprobs_compute_the_whole_prompt(engine: DecodingEngine) -> None:
    one = base(engine)
    prompt = some(BLOCK + 9)
    await ask(one, prompt, "a")
    assert (await ask(one, prompt, "b", prompt_logprobs=0)).num_cached_tokens == 0


@pytest.mark.parametrize("length", [BLOCK - 3, BLOCK, BLOCK + 9, 2 * BLOCK - 1])
async def test_a_hit_may_be_limited_and_prompt_logprobs_hold_from_there(
    engine: DecodingEngine, length: int
) -> None:
    one = base(engine)
    prompt = some(2 * BLOCK + 5)
    full = await ask(one, prompt, "a", prompt_logprobs=0)
    await ask(one, prompt[:length], "prefix", 1)
    for _ in range(2):
        limited = await ask(
            one,
            prompt,
            "b",
            prompt_logprobs=0,
            skip_reading_prefix_cache=False,
            extra_args=limit_arguments(length),
        )
        assert limited.num_cached_tokens == length
        assert tokens(limited) == tokens(full)
        assert full.prompt_logprobs is not None
        assert limited.prompt_logprobs is not None
        for position in range(length + 1, len(prompt)):
            token = prompt[position]
            expected, found = (o.prompt_logprobs[position][token].logprob for o in (full, limited))
            assert found == pytest.approx(expected, abs=1e-5)


async def test_a_reset_cache_has_no_tails(engine: DecodingEngine) -> None:
    one = base(engine)
    prompt = some(20)
    await ask(one, prompt, "a")
    await one.reset_prefix_cache()
    assert (await ask(one, prompt, "b")).num_cached_tokens == 0


async def test_under_preemption_and_reuse_every_answer_is_its_isolated_one(
    tiny: EngineClient, engine: DecodingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many conversations that branch, on a pool too small for them."""
    random_ = random.Random(3)
    roots = [[random_.randrange(10, 900) for _ in range(random_.randrange(20, 90))] for _ in range(4)]
    prompts = []
    for _ in range(100):
        root = random_.choice(roots)
        cut = random_.randrange(1, len(root) + 1)
        prompts.append([*root[:cut], *(random_.randrange(10, 900) for _ in range(random_.randrange(1, 30)))])
    seen = []
    inner = scheduler(tiny)
    original = inner._preempt_request
    monkeypatch.setattr(inner, "_preempt_request", lambda *a, **k: (seen.append(1), original(*a, **k))[1])
    gate = asyncio.Semaphore(10)

    async def one(number: int) -> RequestOutput:
        async with gate:
            return await ask(tiny, prompts[number], f"t{number}", 60)

    outputs = await asyncio.gather(*map(one, range(len(prompts))))
    assert len(seen) >= 5
    hits = [output.num_cached_tokens or 0 for output in outputs]
    assert sum(hit % BLOCK != 0 for hit in hits) >= 10
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        alone = await ask(
            engine.engines["small"], prompt, f"alone{number}", 60, skip_reading_prefix_cache=True
        )
        assert tokens(output) == tokens(alone), number
        assert logprobs(output) == pytest.approx(logprobs(alone), abs=1e-4)
    pool = inner.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1  # all but the null block
