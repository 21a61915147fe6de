"""A seeded request is sampled alike however its prompt is cut, and cutting it kills no engine."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from vllm.engine.protocol import EngineClient
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams

from server.config import ServeSettings
from server.engine import DecodingEngine
from server.engines import create, plan_engines
from server.metrics import EngineMetrics
from tests.inproc import in_process


@pytest_asyncio.fixture(scope="session")  # shut down, an engine takes the process groups from all others
async def piecemeal() -> AsyncIterator[EngineClient]:
    """Computes 32 tokens a step."""
    arguments = {"max_num_batched_tokens": 32, "max_num_seqs": 8, "max_model_len": 512}
    plans = plan_engines(ServeSettings(model=None, engine_args=arguments))
    with in_process():
        engine = create(next(plan for plan in plans if plan.name == "small"), EngineMetrics())
    yield engine
    engine.shutdown()


async def sampled(engine: EngineClient, prompt: list[int], seed: int | None, name: str) -> list[int]:
    params = SamplingParams(
        temperature=1.0,
        seed=seed,
        max_tokens=20,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    outputs = [output async for output in engine.generate(tokens_input(prompt), params, name)]
    return list(outputs[-1].outputs[0].token_ids)


async def test_a_prompt_in_pieces_leaves_the_seed_as_it_is(
    piecemeal: EngineClient, engine: DecodingEngine
) -> None:
    prompts = [list(range(20 + i, 120 + 7 * i)) for i in range(6)]
    whole = [await sampled(engine.engines["small"], one, i, f"w{i}") for i, one in enumerate(prompts)]
    alone = [await sampled(piecemeal, one, i, f"p{i}") for i, one in enumerate(prompts)]
    assert alone == whole
    await piecemeal.reset_prefix_cache()
    together = await asyncio.gather(
        *(sampled(piecemeal, one, i, f"t{i}") for i, one in enumerate(prompts)),
        sampled(piecemeal, prompts[0][5:], None, "unseeded"),
    )
    assert together[:-1] == whole
