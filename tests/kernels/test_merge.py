"""Which tokens share a slot, and what a slot then holds, against the float64 reference."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from kernels import ops, reference
from tests.kernels import cases

pytestmark = pytest.mark.usefixtures("isa")


def check_segments(similarity: Tensor, scores: Tensor, slots: int, sinks: int = 4, heavy: int = 0) -> Tensor:
    before = similarity.clone(), scores.clone()
    segments = ops.merge_segments(similarity, scores, slots, sinks, heavy)
    wanted = reference.merge_segments(similarity, scores, slots, sinks, heavy)
    cases.same_bits(segments, wanted)
    assert (segments[:, 0] == 0).all()
    assert (segments[:, -1] == slots - 1).all()
    cases.same_bits(similarity, before[0])
    cases.same_bits(scores, before[1])
    return segments


@pytest.mark.parametrize(("sinks", "heavy"), [(0, 0), (4, 0), (0, 3), (4, 5), (1, 1)])
def test_segments_for_every_budget(sinks: int, heavy: int) -> None:
    for tokens in (1, 2, 23, 300):
        similarity, scores = (
            cases.randn(3, tokens - 1, seed=tokens),
            cases.randn(3, tokens + 2, seed=tokens + 1),
        )
        least = min(tokens, sinks + 2 * heavy + 1)
        for slots in {least, least + (tokens - least) // 3, tokens}:
            check_segments(similarity, scores, slots, sinks, heavy)


@pytest.mark.parametrize(("sinks", "heavy"), [(0, 0), (4, 3)])
def test_segments_of_ties_and_nan(sinks: int, heavy: int) -> None:
    rough, nan = cases.randn(2, 64, seed=1).round(), cases.randn(2, 64, seed=2) > 0.5
    zeros = torch.where(nan, -0.0, 0.0)
    for values in (
        zeros,
        rough,
        rough.masked_fill(nan, math.nan),
        torch.full((2, 64), math.nan),
        rough / 0.0,
    ):
        for slots in (sinks + 2 * heavy + 1, 31, 63):
            check_segments(values[:, :-1], values, slots, sinks, heavy)
            check_segments(rough[:, :-1], values, slots, sinks, heavy)
            check_segments(values[:, :-1], rough, slots, sinks, heavy)


def test_equal_links_are_taken_from_the_front() -> None:
    segments = ops.merge_segments(torch.ones(1, 9), torch.zeros(1, 10), 7, sinks=2)
    assert segments.tolist() == [[0, 1, 2, 2, 2, 2, 3, 4, 5, 6]]


def test_heavy_tokens_stay_alone() -> None:
    scores = torch.zeros(1, 12)
    scores[0, [5, 9]] = 1.0
    segments = ops.merge_segments(torch.ones(1, 11), scores, 6, sinks=1, heavy=2)
    assert segments.tolist() == [[0, 1, 1, 1, 1, 2, 3, 3, 3, 4, 5, 5]]


def test_segments_of_strided_inputs() -> None:
    similarity, scores = cases.randn(40, 6, seed=3).T, cases.randn(6, 90, seed=4)[::2, 3:60]
    check_segments(similarity[::2], scores, 20, 4, 2)
    check_segments(cases.randn(3, 80, seed=5)[:, 1::2], scores, 20, 4, 2)


def runs(heads: int, tokens: int, slots: int, seed: int) -> Tensor:
    """Random segments, of another division in each head."""
    return reference.merge_segments(
        cases.randn(heads, tokens - 1, seed=seed), torch.zeros(heads, tokens), slots, min(4, slots - 1), 0
    )


def check_merge(
    keys: Tensor,
    values: Tensor,
    scores: Tensor,
    segments: Tensor,
    slots: int,
    sigma: float | None = None,
    storage: str = "contiguous",
) -> None:
    tokens = len(keys)
    key_cache, value_cache = cases.cache(keys, storage, seed=1), cases.cache(values, storage, seed=1)
    others = key_cache.others(), value_cache.others()
    counts = ops.merge_kv_(
        key_cache.memory,
        value_cache.memory,
        scores,
        segments,
        slots,
        block_table=key_cache.table,
        sigma=sigma,
    )
    wanted = keys.double(), values.double()
    wanted_counts = reference.merge_kv_(*wanted, scores, segments, None, slots, sigma)
    cases.same_bits(counts, wanted_counts)
    alone = (counts == 1).T
    starts = torch.searchsorted(segments, torch.arange(slots).expand_as(counts).int().contiguous()).T
    each = torch.arange(keys.shape[1])
    for cache, old, exact, other in zip(
        (key_cache, value_cache), (keys, values), wanted, others, strict=True
    ):
        merged = cache.tokens()[tokens - slots :]
        cases.close(merged, exact[tokens - slots :], atol=4e-6 * float(old.abs().max()))
        cases.same_bits(merged[alone], old[starts, each][alone])
        cases.same_bits(cache.others(), other)


@pytest.mark.parametrize("storage", cases.STORAGES)
def test_merge_random_keys(storage: str) -> None:
    for dim, dtype in product(cases.HEAD_DIMS, cases.FLOATS):
        for tokens, heads, slots in ((1, 1, 1), (6, 1, 1), (37, 2, 15), (70, 3, 70)):
            keys, values = (cases.randn(tokens, heads, dim, seed=dim + i, dtype=dtype) for i in (0, 1))
            scores = cases.randn(heads, tokens + 1, seed=dim + 2)
            segments = runs(heads, tokens, slots, seed=dim + 3)
            check_merge(keys, values, scores, segments, slots, None, storage)


@pytest.mark.parametrize("sigma", [None, 5.0, 0.5, 1e-3, 1e6])
def test_sigma(sigma: float | None) -> None:
    keys, values = (cases.randn(150, 2, 16, seed=i) for i in (1, 2))
    check_merge(keys, values, cases.randn(2, 150, seed=3), runs(2, 150, 40, seed=4), 40, sigma)


@pytest.mark.parametrize("size", [1e-4, 3e-7, 1e-9])
def test_keys_that_hardly_differ(size: float) -> None:
    keys, values = cases.randn(60, 2, 16, seed=21, scale=size), cases.randn(60, 2, 16, seed=22)
    check_merge(keys, values, cases.randn(2, 60, seed=23), runs(2, 60, 20, seed=24), 20)


@pytest.mark.parametrize("storage", ["contiguous", "head first"])
def test_merge_all_into_one(storage: str) -> None:
    keys, values = (cases.randn(500, 2, 16, seed=i) for i in (5, 6))
    segments = torch.zeros(2, 500, dtype=torch.int32)
    check_merge(keys, values, cases.randn(2, 500, seed=7), segments, 1, None, storage)


@pytest.mark.parametrize("sigma", [None, 5.0])
@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_merge_duplicates_and_ties(dtype: torch.dtype, sigma: float | None) -> None:
    keys, values = (cases.randn(60, 2, 16, seed=i, dtype=dtype) for i in (8, 9))
    keys[10:30] = keys[10]
    keys[40:50] = 0
    values[3, 0, 0] = -0.0
    tied = cases.randn(2, 60, seed=10).round()
    lost = tied.masked_fill(tied == 0, math.nan)
    for scores in (tied, lost, torch.zeros(2, 60), torch.full((2, 60), math.nan), tied / 0.0):
        for slots in (1, 12, 55):
            check_merge(keys, values, scores, runs(2, 60, slots, seed=11), slots, sigma)


def test_merge_of_equal_keys_is_the_mean_of_the_values() -> None:
    keys, values = torch.ones(4, 1, 8), torch.arange(32.0).view(4, 1, 8)
    segments = torch.tensor([[0, 1, 1, 1]], dtype=torch.int32)
    mean = values[1:].mean(0)
    counts = ops.merge_kv_(keys, values, torch.zeros(1, 4), segments, 2)
    assert counts.tolist() == [[1, 3]]
    assert torch.equal(values[2, 0], torch.arange(8.0))
    cases.close(values[3], mean.double(), atol=0, rtol=2e-7)
    cases.close(keys[2:], torch.ones(2, 1, 8, dtype=torch.float64), atol=1e-6)


def test_lone_rows_keep_their_bits() -> None:
    for dtype, bits in (
        (torch.bfloat16, torch.int16),
        (torch.float16, torch.int16),
        (torch.float32, torch.int32),
    ):
        rows = cases.permutation(10000, seed=12)[: 20 * 2 * 8].to(bits) * 3 - 15000
        keys = rows.view(dtype).view(20, 2, 8)
        keys[4, 0, :3] = torch.tensor([-0.0, math.inf, math.nan], dtype=dtype)
        values, segments = keys.clone(), torch.arange(20, dtype=torch.int32).expand(2, -1).contiguous()
        same = keys.clone()
        ops.merge_kv_(keys, values, cases.randn(2, 20, seed=13), segments, 20)
        cases.same_bits(keys, same)
        cases.same_bits(values, same)


def test_keys_and_values_in_any_strides() -> None:
    keys, values = (cases.randn(16, 2, 30, seed=i) for i in (14, 15))
    scores, segments = cases.randn(2, 30, seed=16), runs(2, 30, 11, seed=17)
    plain = keys.permute(2, 1, 0).contiguous(), values.permute(2, 1, 0).contiguous()
    ops.merge_kv_(plain[0], plain[1], scores, segments, 11)
    ops.merge_kv_(keys.permute(2, 1, 0), values.permute(2, 1, 0), scores, segments, 11)
    cases.same_bits(keys.permute(2, 1, 0)[19:], plain[0][19:])
    cases.same_bits(values.permute(2, 1, 0)[19:], plain[1][19:])


def test_from_similarity_to_slots() -> None:
    """As a cache merge calls the operators, one after the other."""
    tokens, slots = 96, 48
    keys, values = (cases.randn(tokens, 2, 32, seed=i).cumsum(0) for i in (18, 19))
    query = cases.randn(8, 4, 32, seed=20)
    similarity, scores = ops.adjacent_similarity(keys), ops.window_scores(query, keys, 0.1)
    segments = check_segments(similarity, scores, slots, sinks=4, heavy=8)
    check_merge(keys, values, scores, segments, slots)
