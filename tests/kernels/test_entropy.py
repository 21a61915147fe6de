"""Entropy against the float64 reference."""

import pytest
import torch
from torch import Tensor

from kernels import ops, reference
from tests.kernels import cases

pytestmark = pytest.mark.usefixtures("isa")


def check(logits: Tensor, rows: Tensor | None = None) -> None:
    before = logits.clone()
    bits = ops.entropy(logits, rows)
    assert bits.dtype == torch.float32
    wanted = reference.entropy(logits.double(), None if rows is None else rows.long())
    cases.close(bits, wanted, atol=2e-6, rtol=1e-6)
    cases.same_bits(logits, before)


@pytest.mark.parametrize("vocab", cases.VOCABULARIES)
def test_random_rows(vocab: int) -> None:
    for dtype in cases.FLOATS:
        check(cases.logits(3, vocab, seed=vocab, dtype=dtype))
        check(cases.logits(1, vocab, seed=vocab + 1, dtype=dtype, scale=0.1))


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_hard_rows(dtype: torch.dtype) -> None:
    for vocab in (1, 7, 64, 1023, 50257):
        check(cases.hard_rows(vocab, dtype, seed=vocab))


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_rows_without_a_distribution_give_nan(dtype: torch.dtype) -> None:
    for vocab in (1, 7, 1023):
        assert ops.entropy(cases.lost_rows(vocab, dtype)).isnan().all()


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts(layout: str) -> None:
    for dtype in cases.FLOATS:
        check(cases.laid_out(cases.logits(5, 1023, seed=1, dtype=dtype), layout))


@pytest.mark.parametrize("index", [[3, 0], [4], [2, 2, 1], []])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_chosen_rows(index: list[int], dtype: torch.dtype) -> None:
    logits = cases.logits(5, 1023, seed=2)
    check(logits, torch.tensor(index, dtype=dtype))
    check(cases.laid_out(logits, "odd offset"), torch.tensor([9, *index, 9], dtype=dtype)[1:-1])


def test_rows_that_are_not_chosen_are_not_read() -> None:
    logits = cases.logits(4, 65, seed=3)
    rows = torch.tensor([2, 0])
    bits = ops.entropy(logits, rows)
    logits[[1, 3]] = float("nan")
    cases.same_bits(ops.entropy(logits, rows), bits)


def test_an_empty_batch() -> None:
    assert ops.entropy(torch.empty(0, 7)).shape == (0,)
