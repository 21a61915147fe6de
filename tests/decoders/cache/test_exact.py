"""Answers over a compressed cache are those of a Hugging Face model over the cache compressed by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from vllm import RequestOutput

from tests.decoders.cache.engines import BLOCK, Ask, Engine, error, logprobs, prompt, tokens
from tests.decoders.cache.reference import Oracle
from tests.decoders.logits.models import VOCABULARY

CLOSE = 1e-4  # nats
TIE = 2e-5  # of a cosine or an attention mass: what sums of float32 in another order turn round
LENGTHS = (300, 517, 640)

METHODS: list[Mapping[str, Any]] = [
    {"method": "kvmerger"},
    {"method": "kvmerger", "budget": 0.35, "heavy": 0.0, "sigma": 5.0},
    {"method": "kvmerger", "budget": 0.6, "heavy": 0.1, "pool": 1},
    {"method": "kvmerger", "budget": 0.2, "recent": 32, "window": 64, "sinks": 0, "pool": 1},
    {"method": "kvmerger", "budget": 0.4, "peak": 0.5},
    {"method": "kvmerger", "budget": 0.4, "decode": {"trigger": 96, "keep": 32}},
    {"method": "kvmerger", "budget": 0.3, "mass": True},
    {"method": "kvmerger", "budget": 0.4, "mass": True, "peak": 0.6, "decode": {"trigger": 96, "keep": 8}},
    {"method": "snapkv", "budget": 0.35},
    {"method": "snapkv", "budget": 0.35, "pool": 1, "peak": 0.6, "decode": {"trigger": 64, "keep": 8}},
    {"method": "streaming", "budget": 0.35},
    {"method": "streaming", "budget": 0.5, "decode": {"trigger": 64, "keep": 8}},
]


def require_like(oracle: Oracle, asks: Sequence[Ask], outputs: Sequence[RequestOutput]) -> None:
    """The oracle's log-probabilities.

    In an answer that differs some choice must have been so near that either outcome is right; most must not.
    """
    different = 0
    for ask, output in zip(asks, outputs, strict=True):
        method = dict(ask.cache) if ask.cache else None
        expected = oracle.logprobs(ask.prompt, tokens(output), method, BLOCK)
        off = error(logprobs(output, VOCABULARY), expected)
        if off >= CLOSE:
            different += 1
            assert min(oracle.gaps, default=1.0) < TIE, f"off by {off:.1e} nats, and no choice was near"
    assert different <= len(asks) / 3, "too many answers differ to have judged the others"


def require_compressed(oracle: Oracle, ask: Ask, output: RequestOutput) -> None:
    """What is judged is not what the model says over its whole cache."""
    expected = oracle.logprobs(ask.prompt, tokens(output), None, BLOCK)
    assert error(logprobs(output, VOCABULARY)[1:], expected[1:]) > 100 * CLOSE


@pytest.mark.parametrize("method", METHODS, ids=lambda one: "-".join(str(v) for v in one.values()))
def test_answers_are_the_references(roomy: Engine, oracle: Oracle, method: Mapping[str, Any]) -> None:
    asks = [Ask(prompt(length, length), method, {"max_tokens": 150}) for length in LENGTHS]
    outputs = roomy.run(asks)
    require_like(oracle, asks, outputs)
    for ask, output in zip(asks, outputs, strict=True):
        require_compressed(oracle, ask, output)


@pytest.mark.parametrize("pieces", [64, 100])
def test_a_prompt_in_pieces_gives_the_same_answer(path: str, roomy: Engine, pieces: int) -> None:
    asks = [Ask(prompt(length, length), method) for length in LENGTHS for method in METHODS[::2]]
    engine = Engine(path, max_num_batched_tokens=pieces, max_num_seqs=4)
    for whole, cut in zip(roomy.run(asks), engine.run(asks), strict=True):
        assert tokens(whole) == tokens(cut)
        assert error(logprobs(whole, VOCABULARY), logprobs(cut, VOCABULARY)) < CLOSE


def test_without_a_method_answers_are_vllms_bit_by_bit(plain: Engine, roomy: Engine) -> None:
    off = [Ask(prompt(length, length)) for length in LENGTHS]
    full = [Ask(one.prompt, {"method": "kvmerger", "budget": 1.0}) for one in off]
    expected = plain.run(off)
    for asks in (off, full):
        for output, other in zip(roomy.run(asks), expected, strict=True):
            assert tokens(output) == tokens(other)
            assert torch.equal(logprobs(output, VOCABULARY), logprobs(other, VOCABULARY))


def test_plain_rows_beside_compressed_ones_are_vllms_bit_by_bit(plain: Engine, roomy: Engine) -> None:
    prompts = [prompt(length, length) for length in (300, 400, 517, 600, 640)]
    expected = plain.run([Ask(one) for one in prompts])
    mixed = [Ask(one, METHODS[i % 2] if i % 2 else None) for i, one in enumerate(prompts)]
    for ask, output, other in zip(mixed, roomy.run(mixed), expected, strict=True):
        if ask.cache is None:
            assert torch.equal(logprobs(output, VOCABULARY), logprobs(other, VOCABULARY))


def test_an_engine_without_cache_methods_is_vllms_own(plain: Engine, roomy: Engine) -> None:
    """Both lie in this process, and the second was started with cache methods."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionBackendImpl
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
    from vllm.v1.worker.cpu_worker import CPUWorker

    assert type(plain.scheduler) is Scheduler
    assert type(plain.worker) is CPUWorker
    (manager,) = plain.scheduler.kv_cache_manager.coordinator.single_type_managers
    assert type(manager) is FullAttentionManager
    for layer in plain.layers():
        assert type(layer.impl) is CPUAttentionBackendImpl
        assert layer.attn_backend is CPUAttentionBackend
    assert all(type(layer.impl) is not CPUAttentionBackendImpl for layer in roomy.layers())
