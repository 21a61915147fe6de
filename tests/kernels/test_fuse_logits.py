"""Weighted logits against the float64 reference."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import ops, reference
from tests.kernels import cases
from tests.kernels.cases import INF

pytestmark = pytest.mark.usefixtures("isa")

F, B, H = cases.FLOATS
PAIRS = [(F, F), (B, B), (H, H), (F, B), (B, F), (H, B), (F, H)]


def wanted(
    base: Tensor, guides: list[Tensor], weights: Tensor, normalise: bool, **limits: Tensor | None
) -> tuple[Tensor, Tensor]:
    result, per_row = base.double(), {"alpha": None, "gate": None, "rows": None, **limits}
    per_row["rows"] = None if per_row["rows"] is None else per_row["rows"].long()
    opened = reference.fuse_logits_(result, cases.wide(guides), weights.double(), normalise, **per_row)
    return result, opened


def check(
    base: Tensor, guides: list[Tensor], weights: Tensor, normalise: bool = False, **limits: Tensor | None
) -> Tensor:
    """Compare with the reference; a row that is closed or not chosen must keep its bits."""
    before, guides_before = base.clone(), [guide.clone() for guide in guides]
    expected, opened = wanted(base, guides, weights, normalise, **limits)
    given = ops.fuse_logits_(base, guides, weights, normalise, **limits)
    assert given.dtype == torch.bool
    assert given.tolist() == opened.tolist()

    # float32 is as good as the largest number met: of the token, or in log-softmax of the row.
    def size(logits: Tensor) -> Tensor:
        sizes = logits.double().abs().masked_fill(~logits.isfinite(), 0.0)
        return sizes.amax(-1, keepdim=True).expand_as(sizes) + 20 if normalise else sizes

    rows = limits.get("rows")
    worked = torch.arange(len(base)) if rows is None else rows.long()
    sizes = size(before)
    for guide, weight in zip(guides, weights.double(), strict=True):
        sizes[worked] += weight.abs().unsqueeze(-1) * size(guide)[worked]
    cases.close(base, expected, atol=4e-7 * sizes)

    kept = torch.ones(len(base), dtype=torch.bool)
    kept[worked[opened]] = False
    cases.same_bits(base[kept], before[kept])
    for guide, same in zip(guides, guides_before, strict=True):
        cases.same_bits(guide, same)
    return given


def weighted(count: int, rows: int, seed: int) -> Tensor:
    return cases.randn(count, rows, seed=seed)


@pytest.mark.parametrize("vocab", [1, 7, 1023, 50257])
@pytest.mark.parametrize("normalise", [False, True])
def test_random_rows(vocab: int, normalise: bool) -> None:
    for dtype, guide_dtype in PAIRS:
        guides = [cases.logits(3, vocab, seed=i, dtype=guide_dtype) for i in (1, 2)]
        check(cases.logits(3, vocab, seed=3, dtype=dtype), guides, weighted(2, 3, seed=4), normalise)


@pytest.mark.parametrize("vocab", [128256, 262144])
def test_large_vocabularies(vocab: int) -> None:
    for dtype, normalise in ((F, True), (B, True), (H, False)):
        base = cases.logits(2, vocab, seed=5, dtype=dtype)
        alpha, gate = torch.tensor([0.0, 0.1]), torch.zeros(2)
        guides = [cases.logits(2, vocab, seed=6, dtype=dtype)]
        assert check(base, guides, torch.tensor([[1.0, -0.5]]), normalise, alpha=alpha, gate=gate).all()


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("normalise", [False, True])
def test_hard_rows(dtype: torch.dtype, normalise: bool) -> None:
    for vocab in (1, 7, 1023):
        rows = cases.hard_rows(vocab, dtype, seed=vocab)
        mild = cases.logits(len(rows), vocab, seed=7, dtype=dtype)
        weights = torch.full((1, len(rows)), 0.5)
        check(rows.clone(), [mild], weights, normalise)
        # A guide's log-softmax must itself be in float32's range.
        check(mild.clone(), [rows / 4], weights, normalise)
        check(rows.clone(), [mild], weights, normalise, alpha=torch.full((len(rows),), 0.1))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_what_any_used_source_rules_out_stays_out(normalise: bool, weight: float) -> None:
    base, guide = cases.logits(4, 33, seed=8), cases.logits(4, 33, seed=9)
    base[0, ::3], guide[1, ::4], base[2], guide[3] = -INF, -INF, -INF, -INF
    ruled_out = (base == -INF) | (guide == -INF)
    check(base, [guide], torch.full((1, 4), weight), normalise)
    assert torch.equal(base == -INF, ruled_out)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_guide_of_weight_zero_is_not_read(normalise: bool) -> None:
    base, guides = cases.logits(3, 65, seed=10), [cases.logits(3, 65, seed=i) for i in (11, 12)]
    base[0, 4] = -INF
    weights = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, -0.0]])
    spoilt = [guide.clone() for guide in guides]
    spoilt[0][0], spoilt[1][1], spoilt[0][2], spoilt[1][2] = math.nan, -INF, INF, math.nan
    mine = base.clone()
    check(mine, spoilt, weights, normalise)
    check(base, guides, weights, normalise)
    cases.same_bits(mine, base)


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("normalise", [False, True])
def test_plausibility_mask(dtype: torch.dtype, normalise: bool) -> None:
    base, guide = cases.logits(6, 1023, seed=13, dtype=dtype), cases.logits(6, 1023, seed=14, dtype=dtype)
    base[5].zero_()  # all equal: all plausible
    alpha = torch.tensor([0.0, 0.1, 0.5, 1.0, 1e-6, 1.0])
    check(base, [guide], torch.ones(1, 6), normalise, alpha=alpha)
    kept = (base > -INF).sum(1)
    assert kept[0] == kept[5] == 1023
    assert 1 <= kept[3] <= kept[2] <= kept[1] < kept[4] <= 1023


def test_alpha_and_gate_as_numbers() -> None:
    base, guides, weights = cases.logits(3, 77, seed=15), [cases.logits(3, 77, seed=16)], torch.ones(1, 3)
    base[1] *= 20
    numbers: dict[str, Any] = {"alpha": 0.1, "gate": 1.0}
    mine = base.clone()
    opened = ops.fuse_logits_(mine, guides, weights, **numbers)
    per_row: dict[str, Any] = {name: torch.full((3,), value) for name, value in numbers.items()}
    assert check(base, guides, weights, **per_row).tolist() == opened.tolist() == [True, False, True]
    cases.same_bits(mine, base)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_closed_rows_are_left_alone(dtype: torch.dtype) -> None:
    base, guide = cases.logits(8, 1023, seed=17, dtype=dtype), cases.logits(8, 1023, seed=18, dtype=dtype)
    base[6:], base[7, 3] = -INF, math.nan
    margin = torch.tensor([0.01, -0.01, INF, -INF, 1.0, -1.0, -9.0, -9.0])
    gate = (reference.entropy(base.double(), None).nan_to_num() + margin).float()
    opened = check(base, [guide], torch.ones(1, 8), True, gate=gate, alpha=torch.full((8,), 0.1))
    assert opened.tolist() == [False, True, False, True, False, True, False, False]


@pytest.mark.parametrize("index", [[3, 0], [1], []])
def test_chosen_rows(index: list[int]) -> None:
    for dtype in (torch.int32, torch.int64):
        base, guides = cases.logits(4, 65, seed=19), [cases.logits(4, 65, seed=i) for i in (20, 21)]
        base[2], guides[0][2] = math.nan, math.nan
        rows, count = torch.tensor(index, dtype=dtype), len(index)
        base_gate = reference.entropy(base.double(), rows.long()).float()
        gate = base_gate + torch.tensor([0.1, -0.1])[:count]
        rest = {"alpha": torch.tensor([0.2, 0.4])[:count], "gate": gate, "rows": rows}
        before = base.clone()
        opened = check(base, guides, weighted(2, count, seed=22), True, **rest)
        assert opened.tolist() == [False, True][:count]
        untouched = [i for i in range(4) if i not in index]
        cases.same_bits(base[untouched], before[untouched])


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts(layout: str) -> None:
    for dtype in cases.FLOATS:
        base = cases.laid_out(cases.logits(4, 129, seed=23, dtype=dtype), layout)
        guide = cases.laid_out(cases.logits(4, 129, seed=24, dtype=dtype), layout)
        around = cases.outside(base)
        check(base, [guide], torch.ones(1, 4), True, rows=torch.tensor([2, 0, 3, 1]))
        cases.same_bits(cases.outside(base), around)


def test_ways_to_give_guides() -> None:
    stack, weights = torch.stack([cases.logits(2, 65, seed=i) for i in range(16)]), weighted(16, 2, seed=25)
    base = cases.logits(2, 65, seed=26)
    mine = base.clone()
    ops.fuse_logits_(mine, stack, weights)
    check(base, list(stack.unbind(0)), weights)
    cases.same_bits(mine, base)
    ops.fuse_logits_(mine, stack[3], weights[:1])
    ops.fuse_logits_(base, (stack[3],), weights[:1])
    cases.same_bits(mine, base)
    ops.fuse_logits_(mine, stack.permute(1, 2, 0).contiguous().permute(2, 0, 1), weights)
    ops.fuse_logits_(base, stack, weights)
    cases.same_bits(mine, base)


def test_an_empty_batch() -> None:
    opened = ops.fuse_logits_(torch.empty(0, 7), torch.empty(2, 0, 7), torch.empty(2, 0), alpha=0.1, gate=1.0)
    assert opened.shape == (0,)
