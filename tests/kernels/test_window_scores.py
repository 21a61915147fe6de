"""Attention mass from the last tokens against the float64 reference."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from kernels import ops, reference
from tests.kernels import cases

pytestmark = pytest.mark.usefixtures("isa")


def check(query: Tensor, tokens: Tensor, storage: str = "contiguous", scale: float | None = None) -> None:
    cache = cases.cache(tokens, storage, seed=1)
    before = query.clone(), cases.whole(cache.memory).clone()
    scale = 1 / math.sqrt(query.shape[2]) if scale is None else scale
    length = None if storage == "contiguous" else cache.length
    scores = ops.window_scores(query, cache.memory, scale, block_table=cache.table, length=length)
    assert scores.dtype == torch.float32
    wanted = reference.window_scores(query.double(), tokens.double(), None, len(tokens), scale)
    each = len(query) * query.shape[1] // tokens.shape[1]
    # A dot product's rounding goes into the exponent of a share.
    dots = abs(scale) * query.double().norm(dim=-1).max() * tokens.double().norm(dim=-1).max()
    cases.close(scores, wanted, atol=2e-7 * each, rtol=2e-7 * (10 + float(dots)))
    cases.close(scores.sum(1), torch.full((tokens.shape[1],), float(each), dtype=torch.float64), 0, 1e-5)
    cases.same_bits(query, before[0])
    cases.same_bits(cases.whole(cache.memory), before[1])


@pytest.mark.parametrize("storage", cases.STORAGES)
def test_random_keys(storage: str) -> None:
    for dim, dtype in product(cases.HEAD_DIMS, cases.FLOATS):
        for tokens, window, heads, group in ((1, 1, 1, 1), (5, 5, 2, 1), (37, 1, 1, 3), (70, 9, 2, 4)):
            keys = cases.randn(tokens, heads, dim, seed=dim + tokens, dtype=dtype)
            query = cases.randn(window, heads * group, dim, seed=dim + window, dtype=dtype)
            check(query, keys, storage)


@pytest.mark.parametrize("storage", ["contiguous", "head first"])
def test_a_long_sequence(storage: str) -> None:
    keys, query = cases.randn(2061, 2, 64, seed=2), cases.randn(32, 8, 64, seed=3)
    check(query, keys, storage)


@pytest.mark.parametrize("scale", [0.0, 3.0, -1.0, 1e-3])
def test_scales(scale: float) -> None:
    check(cases.randn(4, 2, 32, seed=4), cases.randn(50, 2, 32, seed=5), scale=scale)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_one_key_that_takes_everything(dtype: torch.dtype) -> None:
    keys, query = cases.randn(50, 2, 32, seed=6, dtype=dtype), torch.ones(6, 4, 32, dtype=dtype)
    keys[31] = 40
    scores = ops.window_scores(query, keys, 1.0)
    assert scores[:, 31].tolist() == [12.0, 12.0]
    assert scores.sum(1).tolist() == [12.0, 12.0]
    keys[47] = 80  # seen by the last three of the window only
    assert ops.window_scores(query, keys, 1.0)[:, [31, 47]].tolist() == [[6.0, 6.0]] * 2


def test_equal_keys_share_equally() -> None:
    scores = ops.window_scores(torch.ones(3, 1, 8), torch.ones(5, 1, 8), 1.0)
    wanted = torch.tensor([[1 / 3 + 1 / 4 + 1 / 5] * 3 + [1 / 4 + 1 / 5, 1 / 5]], dtype=torch.float64)
    cases.close(scores, wanted, atol=2e-7)


def test_query_and_keys_in_any_strides() -> None:
    keys, query = cases.randn(32, 3, 21, seed=7), cases.randn(32, 6, 5, seed=8)
    given = ops.window_scores(query.permute(2, 1, 0), keys.permute(2, 1, 0), 0.2)
    plain = ops.window_scores(query.permute(2, 1, 0).contiguous(), keys.permute(2, 1, 0).contiguous(), 0.2)
    cases.same_bits(given, plain)
    wide = cases.randn(5, 12, 40, seed=9)
    part = wide[:, 3:9, 5:37]
    cases.same_bits(
        ops.window_scores(part, keys.permute(2, 1, 0), 0.2),
        ops.window_scores(part.contiguous(), keys.permute(2, 1, 0), 0.2),
    )
