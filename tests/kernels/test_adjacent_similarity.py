"""Similarity of neighbouring keys against the float64 reference."""

from itertools import product

import pytest
import torch
from torch import Tensor

from kernels import ops, reference
from tests.kernels import cases

pytestmark = pytest.mark.usefixtures("isa")


def check(tokens: Tensor, storage: str = "contiguous") -> Tensor:
    cache = cases.cache(tokens, storage, seed=1)
    before = cases.whole(cache.memory).clone()
    length = None if storage == "contiguous" else cache.length
    links = ops.adjacent_similarity(cache.memory, block_table=cache.table, length=length)
    assert links.dtype == torch.float32
    cases.close(links, reference.adjacent_similarity(tokens.double(), None, len(tokens)), atol=2e-6)
    cases.same_bits(cases.whole(cache.memory), before)
    return links


@pytest.mark.parametrize("storage", cases.STORAGES)
def test_random_keys(storage: str) -> None:
    for dim, dtype in product(cases.HEAD_DIMS, cases.FLOATS):
        for tokens, heads in ((1, 2), (2, 1), (37, 3)):
            check(cases.randn(tokens, heads, dim, seed=dim + tokens, dtype=dtype), storage)


@pytest.mark.parametrize("storage", cases.STORAGES)
def test_a_long_sequence(storage: str) -> None:
    tokens = cases.randn(1029, 2, 64, seed=2)
    check(tokens.cumsum(0), storage)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_hard_keys(dtype: torch.dtype) -> None:
    keys = cases.randn(9, 2, 32, seed=3, dtype=dtype)
    keys[1] = keys[0]
    keys[2] = -keys[1]
    keys[4] = 0
    keys[6] = keys[5] * 100
    keys[8] = keys[7] / 128
    links = check(keys)
    assert (links[:, 3:5] == 0).all()
    cases.close(links[:, :2], torch.tensor([[1.0, -1.0]] * 2, dtype=torch.float64), atol=1e-6)
    assert (check(torch.zeros(3, 1, 4, dtype=dtype)) == 0).all()


def test_all_of_the_blocks_is_the_default() -> None:
    keys = cases.randn(6, 4, 2, 8, seed=4)
    table = torch.tensor([5, 0, 3])
    given = ops.adjacent_similarity(keys, block_table=table)
    cases.same_bits(given, ops.adjacent_similarity(keys[table].flatten(0, 1)))


def test_keys_in_any_strides() -> None:
    keys = cases.randn(32, 3, 21, seed=5)
    given = ops.adjacent_similarity(keys.permute(2, 1, 0))
    cases.same_bits(given, ops.adjacent_similarity(keys.permute(2, 1, 0).contiguous()))
