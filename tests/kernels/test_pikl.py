"""Equilibria against the float64 reference."""

import math

import pytest
import torch
from torch import Tensor

from kernels import ops, reference
from tests.kernels import cases
from tests.kernels.cases import INF

pytestmark = pytest.mark.usefixtures("isa")


def game(games: int, candidates: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Log-probabilities as a model gives them: the generator's not normalised, the discriminator's are."""
    generator = cases.randn(games, 2, candidates, seed=seed, dtype=torch.float64, scale=2) - 5
    discriminator = cases.randn(games, candidates, 2, seed=seed + 1, dtype=torch.float64).log_softmax(2)
    return generator.to(dtype), discriminator.to(dtype)


def check(
    generator: Tensor,
    discriminator: Tensor,
    iterations: int,
    lengths: Tensor | None = None,
    eta: tuple[float, float] = (0.1, 0.1),
    lam: tuple[float, float] = (0.1, 0.1),
) -> tuple[Tensor, Tensor]:
    games, _, candidates = generator.shape
    full = torch.full((games,), candidates) if lengths is None else lengths.long()
    settings = (eta[0], lam[0], eta[1], lam[1], iterations)
    wanted = reference.pikl(generator.double(), discriminator.double(), full, *settings)
    given = ops.pikl(generator, discriminator, eta, lam, iterations, lengths)
    # What one iteration rounds, the next ones multiply by up to 1 / lam; float32 shows it.
    tolerance = 1e-9 if generator.dtype == torch.float64 else 3e-5
    for actual, expected in zip(given, wanted, strict=True):
        assert actual.dtype == generator.dtype
        sizes = expected.abs().masked_fill(~expected.isfinite(), 0.0)
        cases.close(actual, expected, atol=tolerance * (1 + sizes))
    return given


@pytest.mark.parametrize("candidates", [1, 2, 5, 8, 33, 100])
def test_random_games(candidates: int) -> None:
    for dtype in (torch.float32, torch.float64):
        generator, discriminator = game(3, candidates, seed=candidates, dtype=dtype)
        for iterations in (0, 1, 2, 300):
            check(generator, discriminator, iterations)


def test_the_default_is_5000_iterations() -> None:
    generator, discriminator = game(2, 4, seed=40, dtype=torch.float32)
    log_g, log_d = check(generator, discriminator, 5000)
    defaults = ops.pikl(generator, discriminator)
    cases.same_bits(defaults[0], log_g)
    cases.same_bits(defaults[1], log_d)
    torch.testing.assert_close(log_g.exp().sum(2), torch.ones(2, 2))
    torch.testing.assert_close(log_d.exp().sum(2), torch.ones(2, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ragged_games(dtype: torch.dtype) -> None:
    lengths = torch.tensor([33, 1, 8, 7, 2, 32])
    generator, discriminator = game(6, 33, seed=41, dtype=dtype)
    for i, length in enumerate(lengths.tolist()):
        generator[i, :, length:] = math.nan
        discriminator[i, length:] = INF
    for given in (lengths, lengths.int()):
        log_g, log_d = check(generator, discriminator, 50, given)
    for i, length in enumerate(lengths.tolist()):
        assert (log_g[i, :, length:] == -INF).all()
        assert (log_d[i, length:] == -INF).all()
        assert log_g[i, :, :length].isfinite().all()
        assert log_d[i, :length].isfinite().all()
        alone = ops.pikl(generator[i : i + 1, :, :length], discriminator[i : i + 1, :length], iterations=50)
        torch.testing.assert_close(log_g[i : i + 1, :, :length], alone[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unlikely_answers(dtype: torch.dtype) -> None:
    generator, discriminator = game(2, 5, seed=42, dtype=dtype)
    generator[0] -= 2000
    generator[1] = torch.tensor([-2000.0, -2100.0, -1900.0, -2000.0, -2000.5], dtype=dtype)
    generator[1, 1, 2] = -3.0
    discriminator[1, 3] = torch.tensor([-1500.0, -0.0], dtype=dtype)
    for iterations in (0, 1, 100):
        log_g, log_d = check(generator, discriminator, iterations)
        assert log_g.isfinite().all()
        assert log_d.isfinite().all()


@pytest.mark.parametrize("lam", [(0.1, 0.1), (0.0, 0.0)])
def test_ruled_out_candidates_stay_out(lam: tuple[float, float]) -> None:
    generator, discriminator = game(2, 5, seed=43, dtype=torch.float64)
    generator[0, 1, 2] = -INF
    generator[1, :, 4] = -INF
    for iterations in (0, 1, 100):
        log_g, log_d = check(generator, discriminator, iterations, lam=lam)
        assert torch.equal(log_g == -INF, generator == -INF)
        assert log_d.isfinite().all()


@pytest.mark.parametrize("iterations", [0, 1, 20])
def test_a_game_without_a_possible_candidate_gives_nan(iterations: int) -> None:
    generator, discriminator = game(3, 4, seed=44, dtype=torch.float32)
    generator[1, :, :3] = -INF
    log_g, _ = ops.pikl(generator, discriminator, iterations=iterations, lengths=torch.tensor([4, 3, 4]))
    assert log_g[1, :, :3].isnan().all()
    assert log_g[[0, 2]].isfinite().all()


def test_each_player_has_its_own_settings() -> None:
    generator, discriminator = game(2, 6, seed=45, dtype=torch.float64)
    for lam in ((0.0, 0.0), (0.3, 0.05), (0.0, 1.0)):
        check(generator, discriminator, 200, eta=(0.2, 0.05), lam=lam)
    pair = ops.pikl(generator, discriminator, (0.2, 0.2), (0.3, 0.3), 10)
    cases.same_bits(ops.pikl(generator, discriminator, 0.2, 0.3, 10)[0], pair[0])


def test_layouts_and_no_games() -> None:
    generator, discriminator = game(3, 5, seed=46, dtype=torch.float32)
    strided = generator.transpose(0, 2).contiguous().transpose(0, 2), discriminator.mT.contiguous().mT
    before = [tensor.clone() for tensor in strided]
    for mine, plain in zip(
        check(*strided, 30), ops.pikl(generator, discriminator, iterations=30), strict=True
    ):
        cases.same_bits(mine, plain)
    for tensor, same in zip(strided, before, strict=True):
        cases.same_bits(tensor, same)
    log_g, log_d = ops.pikl(generator[:0], discriminator[:0])
    assert (log_g.shape, log_d.shape) == ((0, 2, 5), (0, 5, 2))
