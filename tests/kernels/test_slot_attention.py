"""Attention over slots that stand for several tokens, against the float64 reference."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from kernels import ops, reference
from tests.kernels import cases

pytestmark = pytest.mark.usefixtures("isa")

NEAR = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def masses(heads: int, slots: int, seed: int) -> Tensor:
    return torch.randint(1, 60, (heads, slots), generator=cases.source(seed)).float()


def check(
    query: Tensor, keys: Tensor, values: Tensor, mass: Tensor, storage: str, scale: float = 0.3
) -> None:
    key_cache, value_cache = (cases.cache(one, storage, seed=1) for one in (keys, values))
    before = [cases.whole(one.memory).clone() for one in (key_cache, value_cache)]
    length = None if storage == "contiguous" else key_cache.length
    got = ops.slot_attention(
        query,
        key_cache.memory,
        value_cache.memory,
        mass,
        scale,
        block_table=key_cache.table,
        length=length,
    )
    assert got.dtype == query.dtype
    wanted = reference.slot_attention(
        query.double(), keys.double(), values.double(), mass.double(), None, len(keys), scale
    )
    dots = scale * float(query.double().norm(dim=-1).max() * keys.double().norm(dim=-1).max())
    most = float(values.double().abs().max())
    cases.close(got, wanted, atol=NEAR[query.dtype] * most * (1 + 0.1 * dots))
    for memory, other in zip((key_cache, value_cache), before, strict=True):
        cases.same_bits(cases.whole(memory.memory), other)


@pytest.mark.parametrize("storage", cases.STORAGES)
def test_random_slots(storage: str) -> None:
    for dim, dtype in product(cases.HEAD_DIMS, cases.FLOATS):
        for tokens, last, heads, group, slots in (
            (1, 1, 1, 1, 1),
            (37, 1, 1, 3, 20),
            (70, 9, 2, 4, 70),
            (66, 2, 2, 1, 0),
        ):
            keys, values = (cases.randn(tokens, heads, dim, seed=dim + i, dtype=dtype) for i in (1, 2))
            query = cases.randn(last, heads * group, dim, seed=dim + last, dtype=dtype)
            check(query, keys, values, masses(heads, slots, seed=dim), storage)


def test_a_long_sequence() -> None:
    keys, values = cases.randn(2061, 2, 64, seed=2), cases.randn(2061, 2, 64, seed=4)
    check(cases.randn(3, 8, 64, seed=3), keys, values, masses(2, 1500, seed=5), "head first")


def test_a_slot_of_mass_n_is_n_tokens_with_its_key_and_value() -> None:
    keys, values, query = (cases.randn(n, 2, 32, seed=i) for i, n in enumerate((9, 9, 1)))
    mass = masses(2, 6, seed=6)[:1].expand(2, -1)
    counts = torch.cat([mass[0], mass.new_ones(3)]).long()
    repeated = [one.repeat_interleave(counts, 0) for one in (keys, values)]
    slots = ops.slot_attention(query, keys, values, mass, 0.4)
    alone = ops.slot_attention(query, *repeated, mass.new_ones(2, 0), 0.4)
    cases.close(slots, alone.double(), atol=1e-5)  # both are rounded


def test_without_mass_it_is_torchs_attention() -> None:
    keys, values, query = (cases.randn(n, 2, 32, seed=i) for i, n in enumerate((50, 50, 50)))
    mine = ops.slot_attention(query, keys, values, torch.ones(2, 50), 1 / math.sqrt(32))
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(one.double().transpose(0, 1) for one in (query, keys, values)), is_causal=True
    )
    cases.close(mine, theirs.transpose(0, 1), atol=2e-6)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_keys_whose_tokens_lie_next_to_each_other(dtype: torch.dtype) -> None:
    """vLLM's pages on a CPU: `[heads, dim, block_size]` for keys, `[heads, block_size, dim]` for values."""
    for size, dim in ((32, 32), (64, 80), (128, 128)):
        pages = cases.randn(9, 2, dim, size, seed=7, dtype=dtype)
        value_pages = cases.randn(9, 2, size, dim, seed=8, dtype=dtype)
        keys, values = pages.permute(0, 3, 1, 2), value_pages.permute(0, 2, 1, 3)
        table = torch.tensor([5, 0, 8, 3], dtype=torch.int32)
        length = 3 * size + 11
        query, mass = cases.randn(2, 6, dim, seed=9, dtype=dtype), masses(2, size + 5, seed=10)
        got = ops.slot_attention(query, keys, values, mass, 0.2, block_table=table, length=length)
        wanted = reference.slot_attention(
            query.double(), keys.double(), values.double(), mass.double(), table, length, 0.2
        )
        cases.close(got, wanted, atol=NEAR[dtype] * 8)
