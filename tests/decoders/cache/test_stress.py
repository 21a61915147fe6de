"""Many requests on few blocks: every answer is the one it has alone, and every block is given back."""

import random
from collections.abc import Mapping
from typing import Any

import pytest

from tests.decoders.cache.engines import Ask, Engine, prompt, tokens

KINDS: list[Mapping[str, Any] | None] = [
    None,
    {"method": "kvmerger", "budget": 0.5},
    {"method": "kvmerger", "budget": 0.3, "peak": 0.6, "heavy": 0.0},
    {"method": "kvmerger", "budget": 0.4, "decode": {"trigger": 64, "keep": 16}},
    {"method": "snapkv", "budget": 0.35},
    {"method": "streaming", "budget": 0.25, "peak": 0.5, "decode": {"trigger": 64, "keep": 0}},
]


def crowd(count: int, seed: int) -> list[Ask]:
    """Requests of all kinds, a third of which begin like another one."""
    choose = random.Random(seed)
    asks: list[Ask] = []
    for i in range(count):
        words = prompt(choose.randint(40, 620), 1000 * seed + i)
        if asks and choose.random() < 0.33:
            other = choose.choice(asks).prompt
            words = [*other[: choose.randint(1, len(other))], *words][:640]
        params = {"max_tokens": choose.randint(4, 100), "logprobs": None}
        asks.append(Ask(words, choose.choice(KINDS), params))
    return asks


@pytest.fixture(scope="module")
def alone(path: str) -> Engine:
    return Engine(path, max_num_seqs=1, enable_prefix_caching=False)


TIGHT: list[dict[str, Any]] = [
    {"num_gpu_blocks_override": 80},
    {"num_gpu_blocks_override": 40, "max_num_batched_tokens": 256},
    {"num_gpu_blocks_override": 30, "max_num_batched_tokens": 96},
]


@pytest.mark.parametrize("arguments", TIGHT, ids=lambda one: "-".join(str(v) for v in one.values()))
def test_answers_are_those_of_each_alone(path: str, alone: Engine, arguments: dict[str, Any]) -> None:
    asks = crowd(80, seed=len(arguments) + arguments["num_gpu_blocks_override"])
    expected = [tokens(output) for output in alone.run(asks)]
    engine = Engine(path, enable_prefix_caching=True, max_model_len=768, **arguments)
    with engine.preemptions() as preempted:
        outputs = engine.run(asks)
    assert preempted
    assert sum(output.num_cached_tokens or 0 for output in outputs)
    assert [tokens(output) for output in outputs] == expected
    assert engine.used_blocks() == 0


def test_storms_of_preemptions_and_aborts_at_any_moment(path: str, alone: Engine) -> None:
    asks = crowd(80, seed=7)
    expected = [tokens(output) for output in alone.run(asks)]
    engine = Engine(path, enable_prefix_caching=True, num_gpu_blocks_override=60, max_num_batched_tokens=200)
    choose, llm = random.Random(1), engine.llm.llm_engine
    done: dict[int, list[int]] = {}
    aborted: set[int] = set()
    for i, ask in enumerate(asks):
        given, params = ask.made()
        llm.add_request(str(i), given, params)
    with engine.preemptions(every=9) as preempted:
        while llm.has_unfinished_requests():
            for output in llm.step():
                if output.finished:
                    done[int(output.request_id)] = tokens(output)
            if choose.random() < 0.05 and (
                left := [i for i in range(80) if i not in done and i not in aborted]
            ):
                aborted.add(victim := choose.choice(left))
                llm.abort_request([str(victim)])
    assert len(preempted) > 80
    assert len(aborted) > 5
    assert len(done) >= 80 - len(aborted)
    for i, answer in done.items():
        if i not in aborted:
            assert answer == expected[i]
    assert engine.used_blocks() == 0
    assert not engine.scheduler.manager.plans
