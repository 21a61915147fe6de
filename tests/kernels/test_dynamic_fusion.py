"""Dynamic logit fusion against the float64 reference; a choice is judged by what it achieves."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kernels import ops, reference
from tests.kernels import cases
from tests.kernels.cases import INF

pytestmark = pytest.mark.usefixtures("isa")

F, B, H = cases.FLOATS
GRID = [i / 10 for i in range(21)]


def losses(large: Tensor, experts: list[Tensor], small: Tensor, alphas: Tensor) -> Tensor:
    """sum_k (KL(P~||P) - KL(Q_k||Q))^2 of each row for `alphas` `[.., experts, rows]`, in float64."""
    base, lesser, terms = large.double(), small.double(), torch.stack(cases.wide(experts))
    out = (base == -INF) | (lesser == -INF) | (terms == -INF).any(0)
    base, lesser, terms = (one.masked_fill(out, -INF) for one in (base, lesser, terms))
    shifts = (terms - lesser).masked_fill(out, 0.0)

    # KL(softmax(L + d) || softmax(L)) = E[d] - lse(L + d) + lse(L), which the reference does not use.
    def divergence(start: Tensor, shift: Tensor) -> Tensor:
        end = start + shift
        return (end.softmax(-1) * shift).sum(-1) - end.logsumexp(-1) + start.logsumexp(-1)

    moved = divergence(base, (alphas.unsqueeze(-1) * shifts).sum(-3)).unsqueeze(-2)
    return ((moved - divergence(lesser, shifts)) ** 2).sum(-2)


def check_choice(large: Tensor, experts: list[Tensor], small: Tensor, grid: Tensor, alpha: Tensor) -> None:
    """alpha `[experts, rows]` is one step of the grid for one expert, and no other does visibly better."""
    assert ((alpha != 0).sum(0) <= 1).all()
    assert torch.isin(alpha[alpha != 0], grid).all()
    best = torch.full((len(large),), INF, dtype=torch.float64)
    for k in range(len(experts)):
        for step in grid.double():
            alphas = torch.zeros(alpha.shape, dtype=torch.float64)
            alphas[k] = step
            best = torch.minimum(best, losses(large, experts, small, alphas))
    sizes = [
        one.double().masked_fill(~one.isfinite(), 0.0).abs().amax(-1) for one in (large, small, *experts)
    ]
    slip = 4e-7 * (1 + sizes[0] + grid.abs().max() * (sizes[1] + torch.stack(sizes[2:]).amax(0)))
    excess = losses(large, experts, small, alpha.double()) - best - 4 * slip * (best.sqrt() + slip)
    assert (excess <= 0).all(), f"another step is better by {excess.max():.3g} more than rounding explains"


def check_fused(large: Tensor, experts: list[Tensor], small: Tensor, alpha: Tensor, fused: Tensor) -> None:
    assert fused.dtype == large.dtype
    out = torch.stack([one == -INF for one in (large, small, *experts)]).any(0)
    wanted, sizes = large.double(), large.double().abs()
    for expert, step in zip(experts, alpha.double().unsqueeze(-1), strict=True):
        shift = (expert.double() - small.double()).nan_to_num(0.0, 0.0, 0.0)
        wanted = wanted + step * shift
        sizes = sizes + (step * shift).abs()
    cases.close(fused, wanted.masked_fill(out, -INF), atol=4e-7 * sizes.masked_fill(out, 0.0))


def check(
    large: Tensor, experts: list[Tensor], small: Tensor, grid: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    before = [one.clone() for one in (large, small, *experts)]
    alpha, fused = ops.dynamic_fusion(large, experts, small, grid)
    assert alpha.dtype == torch.float32
    assert alpha.shape == (len(experts), len(large))
    check_choice(large, experts, small, torch.tensor(GRID if grid is None else grid), alpha)
    check_fused(large, experts, small, alpha, fused)
    for one, same in zip((large, small, *experts), before, strict=True):
        cases.same_bits(one, same)
    return alpha, fused


def models(
    rows: int, vocab: int, seed: int, experts: int = 1, dtype: torch.dtype = F, small_dtype: torch.dtype = F
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Related models, as those of one family are: so the best step lies inside the grid."""
    small = cases.logits(rows, vocab, seed)
    large = small + cases.logits(rows, vocab, seed + 1, scale=1.0)
    terms = [small + cases.logits(rows, vocab, seed + 2 + k, scale=1.0) for k in range(experts)]
    return large.to(dtype), [term.to(small_dtype) for term in terms], small.to(small_dtype)


@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("vocab", [1, 7, 1023, 50257])
def test_random_rows(vocab: int, experts: int) -> None:
    for dtype, small_dtype in ((F, F), (B, B), (H, H), (B, F), (F, H)):
        given = models(1 if vocab > 2000 else 3, vocab, vocab, experts, dtype, small_dtype)
        alpha, _ = check(*given)
        if vocab > 1000:
            assert (alpha != 0).any(0).all()
            grid = torch.tensor(GRID)
            exact, _ = reference.dynamic_fusion(
                given[0].double(), cases.wide(given[1]), given[2].double(), grid, None
            )
            assert torch.equal(alpha, exact.float())


@pytest.mark.parametrize("vocab", [128256, 262144])
def test_large_vocabularies(vocab: int) -> None:
    check(*models(1, vocab, seed=1, dtype=B, small_dtype=B))


@pytest.mark.parametrize("grid", [[0.7], [2.0, 1.0, 0.0], [-1.0, -0.5, 0.5], [i / 32 for i in range(64)]])
def test_grids(grid: list[float]) -> None:
    given = models(5, 129, seed=2, experts=2)
    alpha, fused = check(*given, grid)
    for again in (tuple(grid), torch.tensor(grid), torch.tensor(grid, dtype=torch.float64)):
        mine = ops.dynamic_fusion(*given, again)
        cases.same_bits(mine[0], alpha)
        cases.same_bits(mine[1], fused)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_what_any_model_rules_out_stays_out(dtype: torch.dtype) -> None:
    large, experts, small = models(6, 129, seed=3, experts=2, dtype=dtype, small_dtype=dtype)
    large[0, ::3], small[1, 1::4], experts[0][2, 5:], experts[1][3, :99] = -INF, -INF, -INF, -INF
    large[4, 1:], small[5, 2:] = -INF, -INF
    alpha, fused = check(large, experts, small)
    assert torch.equal((fused > -INF).sum(1), torch.tensor([86, 97, 5, 30, 1, 2]))
    assert alpha.isfinite().all()


@pytest.mark.parametrize("dtype", [F, B])
def test_large_logits(dtype: torch.dtype) -> None:
    large, experts, small = models(4, 129, seed=4, dtype=dtype, small_dtype=dtype)
    large[0] += 1e4
    small[1] -= 1e4
    experts[0][2] += 3000
    large[3] *= 1000
    check(large, experts, small)


def test_a_row_without_a_common_token_gives_nan() -> None:
    large, experts, small = models(3, 9, seed=5)
    large[0], small[1, ::2], experts[0][1, 1::2] = -INF, -INF, -INF
    alpha, fused = ops.dynamic_fusion(large, experts, small)
    assert fused[:2].isnan().all()
    assert alpha[0, :2].isnan().all()
    assert fused[2].isfinite().all()


def test_the_first_of_equal_choices_wins() -> None:
    large, (expert,), small = models(3, 65, seed=6)
    alpha, _ = check(large, [expert, expert.clone()], small)
    assert (alpha[0] > 0).all()
    assert (alpha[1] == 0).all()
    alpha, fused = ops.dynamic_fusion(large, small.clone(), small, [0.5, 0.25, 0.5])
    assert alpha.tolist() == [0.5] * 3
    cases.same_bits(fused, large)


def test_one_expert_a_stack_and_a_sequence() -> None:
    large, experts, small = models(3, 65, seed=7, experts=2)
    both = ops.dynamic_fusion(large, torch.stack(experts), small)
    listed = ops.dynamic_fusion(large, experts, small)
    alone, alone_fused = ops.dynamic_fusion(large, experts[0], small)
    in_list = ops.dynamic_fusion(large, experts[:1], small)
    for one, other in (
        (both[0], listed[0]),
        (both[1], listed[1]),
        (alone, in_list[0][0]),
        (alone_fused, in_list[1]),
    ):
        cases.same_bits(one, other)
    assert ops.dynamic_fusion_(large.clone(), experts[0], small).shape == (3,)
    assert ops.dynamic_fusion_(large.clone(), experts[:1], small).shape == (1, 3)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_gate(dtype: torch.dtype) -> None:
    large, experts, small = models(4, 1023, seed=8, dtype=dtype, small_dtype=dtype)
    large[3] = -INF
    margin = torch.tensor([0.01, -0.01, 1.0, -1.0])
    gate = (reference.entropy(large.double(), None) + margin).nan_to_num(0.0).float()
    alpha, fused = ops.dynamic_fusion(large, experts[0], small, gate=gate)
    assert alpha[[0, 2, 3]].tolist() == [0.0] * 3
    cases.same_bits(fused[[0, 2, 3]], large[[0, 2, 3]])
    open_alpha, open_fused = ops.dynamic_fusion(large, experts[0], small)
    assert alpha[1] == open_alpha[1] > 0
    cases.same_bits(fused[1], open_fused[1])
    closed, _ = ops.dynamic_fusion(large, experts[0], small, gate=20.0)
    assert (closed == 0).all()


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_in_place_rows_and_layouts(layout: str) -> None:
    for dtype in cases.FLOATS:
        large, experts, small = models(5, 129, seed=9, experts=2, dtype=dtype, small_dtype=dtype)
        alpha, fused = check(large, experts, small)
        strided, around = cases.laid_out(large, layout), cases.outside(cases.laid_out(large, layout))
        terms, lesser = [cases.laid_out(one, layout) for one in experts], cases.laid_out(small, layout)
        mine = ops.dynamic_fusion(strided, terms, lesser)
        cases.same_bits(mine[0], alpha)
        cases.same_bits(mine[1], fused)
        lesser[[1, 3]] = float("nan")
        rows = torch.tensor([4, 0, 2], dtype=torch.int32)
        given = ops.dynamic_fusion_(strided, terms, lesser, rows=rows)
        cases.same_bits(given, alpha[:, [4, 0, 2]])
        cases.same_bits(strided[[0, 2, 4]], fused[[0, 2, 4]])
        cases.same_bits(strided[[1, 3]], large[[1, 3]])
        cases.same_bits(cases.outside(strided), around)


def test_an_empty_batch() -> None:
    empty = torch.empty(0, 7)
    alpha, fused = ops.dynamic_fusion(empty, [empty, empty], empty, gate=1.0)
    assert (alpha.shape, fused.shape) == ((2, 0), (0, 7))
    large = cases.logits(2, 7, seed=10)
    before = large.clone()
    none = torch.empty(0, dtype=torch.int64)
    assert ops.dynamic_fusion_(large, before, before.clone(), rows=none).shape == (0,)
    cases.same_bits(large, before)
