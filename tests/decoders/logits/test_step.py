"""The arithmetic of one step, on small tensors worked out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from decoders.logits.guidance import Guidance
from decoders.logits.step import StepPlan
from tests.decoders.logits.engines import NEVER

NAN, INF = math.nan, math.inf
CPU = torch.device("cpu")
KEEP = [9.0, -9.0, 0.5, 0.25]


def applied(rows: dict[int, Guidance], logits: Tensor, **guides: Tensor) -> list[Any]:
    return StepPlan(rows, CPU).apply(logits, guides)


def test_a_sum_is_added_to_its_rows_alone() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0], KEEP, [0.0, 0.0, 0.0, 1.0]])
    a = torch.tensor([[1.0, 0.0, 0.0, -1.0]] * 3)
    b = torch.tensor([[0.0, 4.0, 0.0, 0.0]] * 3)
    rows = {2: Guidance(weights={"a": -1.0, "b": 0.5}), 0: Guidance(weights={"a": 2.0})}
    (done,) = applied(rows, logits, a=a, b=b)
    assert logits.tolist() == [[3.0, 2.0, 3.0, 2.0], KEEP, [-1.0, 2.0, 0.0, 2.0]]
    at, opened, alpha = done
    assert sorted(at.tolist()) == [0, 2]
    assert opened.tolist() == [True, True]
    assert alpha is None


def test_a_guide_of_weight_zero_is_not_read() -> None:
    logits = torch.zeros(2, 4)
    poison = torch.full((2, 4), NAN)
    poison[1] = 1.0
    rows = {0: Guidance(weights={"a": 1.0, "b": 0.0}), 1: Guidance(weights={"b": 1.0})}
    applied(rows, logits, a=torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 2), b=poison)
    assert logits.tolist() == [[1.0, 2.0, 3.0, 4.0], [1.0] * 4]


def test_what_a_guide_cannot_give_is_ruled_out_even_by_a_negative_weight() -> None:
    logits = torch.zeros(1, 4)
    applied({0: Guidance(weights={"a": -1.0})}, logits, a=torch.tensor([[0.0, 1.0, 2.0, -INF]]))
    assert logits.tolist() == [[0.0, -1.0, -2.0, -INF]]


def test_the_mask_follows_each_rows_base() -> None:
    # Probabilities of base: 1/2, 1/4, 1/8, 1/8.
    own = [math.log(p) for p in (0.5, 0.25, 0.125, 0.125)]
    logits = torch.tensor([own, own, own])
    a = torch.tensor([[0.0, 1.0, 5.0, 0.0]] * 3)
    rows = {
        0: Guidance(weights={"a": 1.0}, alpha=0.3),
        1: Guidance(weights={"a": 1.0}),
        2: Guidance(weights={"a": -1.0}, alpha=0.6),
    }
    applied(rows, logits, a=a)
    ruled_out = [[value < NEVER for value in row] for row in logits.tolist()]
    assert ruled_out == [[False, False, True, True], [False] * 4, [False, True, True, True]]
    assert logits[0, :2].tolist() == pytest.approx([own[0], own[1] + 1.0])


@pytest.mark.parametrize("weight", [-1000.0, 1000.0])
def test_the_mask_holds_whatever_the_weights(weight: float) -> None:
    """These are the largest that a request may give; a guide's raw logits may have any mean."""
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    against = torch.tensor([[-20.0, -20.0, 0.0, 20.0]]) * math.copysign(1.0, weight)
    applied({0: Guidance(weights={"a": weight}, alpha=0.3)}, logits, a=against)
    assert logits.argmax().item() == 0
    assert logits.log_softmax(-1)[0, 2:].max() < NEVER


def test_the_gate_opens_above_the_bases_bits() -> None:
    # Two bits, one bit, no bits.
    logits = torch.tensor([[0.0] * 4, [0.0, 0.0, -INF, -INF], [0.0, -INF, -INF, -INF]])
    before = logits.clone()
    a = torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 3)
    rows = {i: Guidance(weights={"a": 1.0}, gate=gate) for i, gate in enumerate((1.9, 1.1, None))}
    ((at, opened, _),) = applied(rows, logits, a=a)
    assert dict(zip(at.tolist(), opened.tolist(), strict=True)) == {0: True, 1: False, 2: True}
    assert logits[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert torch.equal(logits[1], before[1])
    assert logits[2, 0] == 1.0


def test_fusion_takes_the_alpha_that_moves_the_base_as_far_as_the_expert() -> None:
    """A base that is the small model itself moves exactly as its expert did at alpha 1."""
    small = torch.tensor([[0.5, -0.5, 0.0, 1.0]] * 4)
    expert = torch.tensor([[2.0, 0.0, -1.0, 0.5]] * 4)
    other = small + 3.0  # the same distribution: tuning moved nothing
    logits = torch.tensor([small[0].tolist(), KEEP, small[2].tolist(), small[3].tolist()])
    rows = {
        0: Guidance(experts=["expert"], small="small", grid=[0.0, 0.5, 1.0, 1.5]),
        2: Guidance(experts=["other"], small="small", grid=[0.0, 0.5, 1.0]),
        3: Guidance(experts=["expert"], small="small", grid=[0.0, 1.0], gate=10.0),
    }
    done = applied(rows, logits, expert=expert, small=small, other=other)
    alphas = {int(row): float(alpha[0, i]) for at, _, alpha in done for i, row in enumerate(at)}
    opened = {int(row): bool(open_[i]) for at, open_, _ in done for i, row in enumerate(at)}
    assert alphas == {0: 1.0, 2: 0.0, 3: 0.0}
    assert opened == {0: True, 2: True, 3: False}
    assert logits[0].tolist() == pytest.approx(expert[0].tolist(), abs=1e-6)
    assert logits[1].tolist() == KEEP
    assert torch.allclose(logits[2:], small[2:])


def test_of_two_experts_one_moves_the_base() -> None:
    small = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    first = torch.tensor([[3.0, 0.0, 0.0, 0.0]])
    second = torch.tensor([[0.0, 3.0, 0.0, 0.0]])
    guidance = Guidance(experts=["first", "second"], small="small", grid=[0.5, 1.0])
    logits = torch.zeros(1, 4)
    ((_, opened, alpha),) = applied({0: guidance}, logits, first=first, second=second, small=small)
    # Both shifts are equal, so alpha 1 of either is exact; the first of equals wins.
    assert alpha.tolist() == [[1.0], [0.0]]
    assert opened.tolist() == [True]
    assert logits.tolist() == [[3.0, 0.0, 0.0, 0.0]]


def test_sums_and_fusions_share_a_step() -> None:
    logits = torch.zeros(3, 4)
    a = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3)
    zero = torch.zeros(3, 4)
    rows = {
        0: Guidance(experts=["a"], small="zero", grid=[0.0, 1.0]),
        1: Guidance(weights={"a": 2.0}),
        2: Guidance(weights={"a": -1.0}, gate=1.0),
    }
    plan = StepPlan(rows, CPU)
    assert plan.guides == ("a", "zero")
    done = plan.apply(logits, {"a": a, "zero": zero})
    assert sorted(int(row) for at, *_ in done for row in at) == [0, 1, 2]
    assert logits.tolist() == [[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0], [-1.0, -2.0, -3.0, -4.0]]


def test_a_batch_may_use_more_guides_than_one_request() -> None:
    """Sixteen are the most of a request; an engine may have any number of them, and rows choose others."""
    names = [f"guide{i:02}" for i in range(20)]
    logits = torch.zeros(20, 4)
    guides = {name: torch.full((20, 4), float(i)) for i, name in enumerate(names)}
    StepPlan({i: Guidance(weights={name: 1.0}) for i, name in enumerate(names)}, CPU).apply(logits, guides)
    assert logits[:, 0].tolist() == [float(i) for i in range(20)]


def test_a_guide_alone_takes_the_bases_place_in_its_rows() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0], KEEP, [0.0, 0.0, 0.0, 1.0], [0.5] * 4])
    a = torch.tensor([[float(row), -1.0, 7.0, -INF] for row in range(4)])
    rows = {2: Guidance(alone="a"), 0: Guidance(alone="b"), 3: Guidance(weights={"a": 1.0})}
    assert rows[2].guides() == ("a",)
    assert not rows[2].does_nothing()
    done = applied(rows, logits, a=a, b=a + 1)
    assert logits.tolist() == [[1.0, 0.0, 8.0, -INF], KEEP, [2.0, -1.0, 7.0, -INF], [3.5, -0.5, 7.5, -INF]]
    assert sorted(row for at, opened, _ in done for row in at[opened].tolist()) == [0, 2, 3]
