"""Blocks: freed as planned, at once; more requests at a time; and as many however long an answer gets."""

from collections.abc import Mapping
from statistics import mean
from typing import Any

import pytest

from decoders.cache.plan import make_plan
from decoders.request import DecodingRequest
from tests.decoders.cache.engines import BLOCK, Ask, Engine, prompt
from tests.decoders.logits.models import LLAMA, make, shape


@pytest.mark.parametrize("budget", [0.75, 0.5, 0.35, 0.2])
def test_a_prompt_frees_exactly_the_planned_blocks(roomy: Engine, budget: float) -> None:
    given = {"method": "kvmerger", "budget": budget}
    plan = make_plan(700, DecodingRequest.model_validate({"cache": given}).cache.settings(), BLOCK)
    assert plan is not None
    assert plan.skip(700) * BLOCK >= (1 - budget) * 700 - BLOCK
    with roomy.steps() as steps:
        roomy.run([Ask(prompt(700, seed=1), given, {"max_tokens": 10})])
    assert steps[0]["blocks"] == 22
    assert steps[1]["blocks"] == 22 - plan.skip(700)
    assert roomy.used_blocks() == 0


POOL, CROWD = 160, 24


def running(path: str, cache: Mapping[str, Any] | None) -> tuple[float, int]:
    """Mean number of requests that run, over the middle of the work, and the steps it takes."""
    engine = Engine(
        path,
        num_gpu_blocks_override=POOL + 1,
        max_num_batched_tokens=1024,
        max_num_seqs=CROWD,
        max_model_len=1280,
    )
    asks = [Ask(prompt(1000, seed=i), cache, {"max_tokens": 96, "logprobs": None}) for i in range(CROWD)]
    with engine.steps() as steps:
        engine.run(asks)
    busy = [step["running"] for step in steps if step["running"]]
    middle = busy[len(busy) // 10 : -len(busy) // 5]
    return mean(middle), len(busy)


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One layer, and a context of 32768 tokens."""
    small = shape(64, 1, 2, 1, 32, max_position_embeddings=32768)
    return make(tmp_path_factory.mktemp("longer") / "base", 3, LLAMA, small)


def test_more_requests_run_at_a_time(longer: str) -> None:
    plain, plain_steps = running(longer, None)
    half, half_steps = running(longer, {"method": "kvmerger", "budget": 0.5})
    third, third_steps = running(longer, {"method": "kvmerger", "budget": 0.35, "peak": 0.45})
    print(f"running {plain:.2f} {half:.2f} {third:.2f}; steps {plain_steps} {half_steps} {third_steps}")
    assert half >= 1.9 * plain
    assert third >= 2.5 * plain
    assert half_steps <= 0.55 * plain_steps
    assert third_steps <= 0.5 * plain_steps


def test_a_long_answer_holds_a_constant_number_of_blocks(longer: str) -> None:
    engine = Engine(longer, max_model_len=24_000, max_num_seqs=2)
    given = {"method": "kvmerger", "budget": 0.5, "decode": {"trigger": 512, "keep": 128}}
    with engine.steps() as steps:
        (output,) = engine.run([Ask(prompt(600, seed=2), given, {"max_tokens": 20_000, "logprobs": None})])
    assert len(output.outputs[0].token_ids) == 20_000
    held = [step["blocks"] for step in steps if step["blocks"]]
    early, late = held[2_000:4_000], held[-4_000:]
    print(f"blocks held: {min(early)} to {max(early)} early, {min(late)} to {max(late)} late")
    assert (min(early), max(early)) == (min(late), max(late))
    assert max(late) <= (320 + 512) // BLOCK + 2
