"""Beside guides, asynchronous scheduling, compilation and larger blocks."""

from typing import Any

import pytest
import torch
from vllm.platforms.cpu import CpuPlatform

from decoders.cache.engine import cache_arguments
from decoders.logits.engine import guided_arguments
from tests.decoders.cache.engines import BLOCK, METHODS, Ask, Engine, error, logprobs, prompt, tokens
from tests.decoders.cache.reference import Oracle
from tests.decoders.logits.engines import engine_settings, started
from tests.decoders.logits.models import LLAMA, VOCABULARY, make, shape

CLOSE = 1e-4
KINDS: list[dict[str, Any] | None] = [
    {"method": "kvmerger", "budget": 0.4},
    {"method": "kvmerger", "budget": 0.4, "peak": 0.6, "decode": {"trigger": 64, "keep": 16}},
    None,
    {"method": "snapkv", "budget": 0.3},
]


def asks(**params: Any) -> list[Ask]:
    return [
        Ask(prompt(300 + 40 * i, seed=300 + i), KINDS[i % len(KINDS)], {"max_tokens": 100, **params})
        for i in range(8)
    ]


@pytest.fixture
def asynchronous(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM schedules ahead of the model on GPUs only; made to do so here."""
    original = CpuPlatform.check_and_update_config.__func__  # type: ignore[attr-defined]

    def check(cls: Any, config: Any) -> None:
        original(cls, config)
        config.scheduler_config.async_scheduling = True

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", classmethod(check))


@pytest.mark.usefixtures("asynchronous")
@pytest.mark.parametrize("blocks", [400, 40])
def test_asynchronous_scheduling_gives_the_same_answers(path: str, roomy: Engine, blocks: int) -> None:
    expected = [tokens(output) for output in roomy.run(asks(logprobs=None))]
    engine = Engine(path, async_scheduling=True, num_gpu_blocks_override=blocks, max_num_batched_tokens=256)
    assert type(engine.scheduler).__name__ == "AsyncCompressingScheduler"
    with engine.preemptions(every=13 if blocks == 40 else None) as preempted:
        assert [tokens(output) for output in engine.run(asks(logprobs=None))] == expected
    assert bool(preempted) == (blocks == 40)
    assert engine.used_blocks() == 0


def test_larger_blocks_give_the_references_answers(path: str, oracle: Oracle) -> None:
    engine = Engine(path, block_size=64)
    asked = [Ask(prompt(500, seed=1), KINDS[0]), Ask(prompt(640, seed=2), KINDS[1], {"max_tokens": 100})]
    for ask, output in zip(asked, engine.run(asked), strict=True):
        expected = oracle.logprobs(ask.prompt, tokens(output), dict(ask.cache or {}), 64)
        assert error(logprobs(output, VOCABULARY), expected) < CLOSE


def test_compiled_engines_give_the_same_answers(path: str, roomy: Engine) -> None:
    expected = [tokens(output) for output in roomy.run(asks(logprobs=None))]
    engine = Engine(path, enforce_eager=False)
    assert [tokens(output) for output in engine.run(asks(logprobs=None))] == expected


def test_a_guides_cache_is_compressed_like_the_bases(path: str, oracle: Oracle, tmp_path: Any) -> None:
    """GenARM over two compressed caches: base's and guide's log-probabilities, added and normalised."""
    guide = make(tmp_path / "polite", 1, LLAMA, shape(64, 2, 2, 1, 32))
    engine = Engine.__new__(Engine)
    given = engine_settings(path, max_model_len=1024, block_size=BLOCK, enable_prefix_caching=False)
    engine.llm = started(cache_arguments(METHODS, guided_arguments({"polite": guide}, given)))
    engine.sound = True
    genarm = {"method": "genarm", "weights": {"polite": 1.0}}
    cache = {"method": "kvmerger", "budget": 0.4, "decode": {"trigger": 96, "keep": 32}}
    asked = [Ask(prompt(n, seed=n), cache, {"max_tokens": 120}, logits=genarm) for n in (333, 520)]
    outputs = engine.run(asked)
    base = [
        oracle.logprobs(one.prompt, tokens(out), cache, BLOCK)
        for one, out in zip(asked, outputs, strict=True)
    ]
    judge = Oracle(guide)
    for ask, output, mine in zip(asked, outputs, base, strict=True):
        theirs = judge.logprobs(ask.prompt, tokens(output), cache, BLOCK)
        expected = (mine + theirs).log_softmax(-1)
        assert error(logprobs(output, VOCABULARY), expected) < 2 * CLOSE
        assert not torch.allclose(expected, mine, atol=0.1)
