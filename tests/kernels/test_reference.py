"""The torch reference against pure Python and against values known beforehand."""

import math

import pytest
import torch
from torch import Tensor

from kernels import ops, reference
from tests.kernels import naive
from tests.kernels.cases import INF, permutation, randn

D = torch.float64

# The golden game of the project's algorithm notes, checked there by two independent programs.
SAID = [[0.20, 0.30, 0.25, 0.25], [0.40, 0.35, 0.15, 0.10]]
WRONG = [0.55, 0.35, 0.60, 0.70]
GOLDEN = {
    0: ([0.357301, 0.288589, 0.200982, 0.153129], [0.5, 0.694175, 0.448980, 0.343750]),
    1: ([0.251045, 0.252935, 0.248990, 0.247030], [0.502489, 0.502924, 0.498356, 0.496152]),
    100: ([0.310108, 0.323020, 0.206706, 0.160166], [0.545640, 0.639938, 0.448159, 0.362182]),
    1000: ([0.356833, 0.578128, 0.048084, 0.016955], [0.759709, 0.927508, 0.273302, 0.060030]),
    5000: ([0.363560, 0.616238, 0.015696, 0.004506], [0.831253, 0.972009, 0.221433, 0.019536]),
}


def golden_game() -> tuple[Tensor, Tensor]:
    judged = [[[wrong, 1 - wrong] for wrong in WRONG]]
    return torch.tensor([SAID], dtype=D).log(), torch.tensor(judged, dtype=D).log()


def is_golden(policies: tuple[Tensor, Tensor], iterations: int) -> None:
    log_g, log_d = policies
    said, judged = GOLDEN[iterations]
    assert log_g[0, 1].exp().tolist() == pytest.approx(said, abs=1e-6)
    assert log_d[0, :, 1].exp().tolist() == pytest.approx(judged, abs=1e-6)


@pytest.mark.parametrize("iterations", GOLDEN)
def test_pikl_gives_the_golden_values(iterations: int) -> None:
    is_golden(reference.pikl(*golden_game(), torch.tensor([4]), 0.1, 0.1, 0.1, 0.1, iterations), iterations)


@pytest.mark.parametrize("iterations", GOLDEN)
@pytest.mark.usefixtures("isa")
def test_the_operator_gives_the_golden_values(iterations: int) -> None:
    is_golden(ops.pikl(*golden_game(), iterations=iterations), iterations)


@pytest.mark.parametrize("candidates", [1, 2, 5])
@pytest.mark.parametrize("iterations", [0, 1, 2, 60])
def test_pikl_is_the_naive_loop(candidates: int, iterations: int) -> None:
    generator = randn(1, 2, candidates, seed=candidates, dtype=D).log_softmax(2)
    discriminator = randn(1, candidates, 2, seed=candidates + 1, dtype=D)
    log_g, log_d = reference.pikl(
        generator, discriminator, torch.tensor([candidates]), 0.3, 0.2, 0.3, 0.2, iterations
    )
    said, judged = naive.pikl(
        generator[0].exp().tolist(), discriminator[0].exp().tolist(), 0.3, 0.2, iterations
    )
    torch.testing.assert_close(log_g[0].exp(), torch.tensor(said, dtype=D))
    torch.testing.assert_close(log_d[0].exp(), torch.tensor(judged, dtype=D))


@pytest.mark.parametrize("vocab", [1, 2, 7, 4096])
def test_entropy_of_equal_logits_is_log2_of_the_vocabulary(vocab: int) -> None:
    bits = reference.entropy(torch.full((3, vocab), 2.5, dtype=D), None)
    assert bits.tolist() == pytest.approx([math.log2(vocab)] * 3, abs=1e-12)


def test_entropy_is_the_naive_sum() -> None:
    rows = randn(5, 11, seed=1, dtype=D, scale=4)
    rows[2, 3:6] = -INF
    assert reference.entropy(rows, None).tolist() == pytest.approx(
        [naive.entropy(row) for row in rows.tolist()]
    )
    assert reference.entropy(torch.tensor([[0.0, -INF]], dtype=D), None).item() == 0
    picked = reference.entropy(rows, torch.tensor([4, 0]))
    assert picked.tolist() == pytest.approx([naive.entropy(rows[i].tolist()) for i in (4, 0)])


@pytest.mark.parametrize("bad", [-INF, math.nan, INF])
def test_entropy_of_no_distribution_is_nan(bad: float) -> None:
    assert reference.entropy(torch.full((1, 4), bad, dtype=D), None).isnan().all()
    assert reference.entropy(torch.tensor([[0.0, bad, 1.0]], dtype=D), None).isnan().item() is (bad != -INF)


@pytest.mark.parametrize("normalise", [False, True])
def test_fuse_logits_is_the_naive_sum(normalise: bool) -> None:
    base, guides = randn(6, 9, seed=2, dtype=D, scale=2), randn(3, 6, 9, seed=3, dtype=D, scale=2)
    base[0, 4], guides[1, 1, 2], guides[0, 2, 1] = -INF, -INF, -INF
    guides[2, 3, 5] = -INF  # of weight zero there
    weights = torch.tensor([[1, 0, -1, 2, 0, 1], [-0.5, 3, 0, 1, 0, 1], [0, 0, 1, 0, 0, -2]], dtype=D)
    alpha = torch.tensor([0.0, 0.1, 0.0, 0.0, 1.0, 0.01], dtype=D)
    gate = torch.tensor([-1.0, 0.5, 0.6, 0.7, 0.2, 9.0], dtype=D)
    wanted = [
        naive.fuse(base[i].tolist(), guides[:, i].tolist(), weights[:, i].tolist(), normalise, *limits)
        for i, limits in enumerate(zip(alpha.tolist(), gate.tolist(), strict=True))
    ]
    opened = reference.fuse_logits_(base, list(guides), weights, normalise, alpha, gate, None)
    assert opened.tolist() == [opened for _, opened in wanted]
    assert opened.tolist() == [True] * 5 + [False]
    torch.testing.assert_close(base, torch.tensor([row for row, _ in wanted], dtype=D))


@pytest.mark.parametrize("experts", [1, 3])
def test_dynamic_fusion_is_the_naive_search(experts: int) -> None:
    grid = torch.tensor([0.0, 0.25, 0.5, 1.0, 1.5, -0.5], dtype=D)
    large, small = randn(8, 6, seed=4, dtype=D, scale=2), randn(8, 6, seed=5, dtype=D, scale=2)
    terms = randn(experts, 8, 6, seed=6, dtype=D, scale=2)
    large[1, 0], small[2, 1], terms[-1, 3, 2] = -INF, -INF, -INF
    alpha, fused = reference.dynamic_fusion(large, list(terms), small, grid, None)
    for i in range(8):
        steps, row, margin = naive.dynamic_fusion(
            large[i].tolist(), terms[:, i].tolist(), small[i].tolist(), grid.tolist()
        )
        assert margin > 1e-9
        assert alpha[:, i].tolist() == steps
        torch.testing.assert_close(fused[i], torch.tensor(row, dtype=D))
    assert (alpha != 0).any()


def test_dynamic_fusion_of_rows_and_closed_rows() -> None:
    large, small, expert = (randn(4, 6, seed=i, dtype=D, scale=2) for i in (7, 8, 9))
    grid = torch.tensor([0.5, 1.0], dtype=D)
    bits = reference.entropy(large, None)
    before, rows = large.clone(), torch.tensor([3, 1])
    gate = torch.stack([bits[3] + 0.1, bits[1] - 0.1])
    alpha = reference.dynamic_fusion_(large, [expert], small, grid, gate, rows)
    assert alpha[0, 0] == 0
    assert alpha[0, 1] >= 0.5
    assert torch.equal(large[[0, 2, 3]], before[[0, 2, 3]])
    torch.testing.assert_close(large[1], before[1] + alpha[0, 1] * (expert - small)[1])


def test_a_row_without_a_common_token_gives_nan() -> None:
    large, small = torch.tensor([[0.0, -INF]], dtype=D), torch.tensor([[-INF, 0.0]], dtype=D)
    alpha, fused = reference.dynamic_fusion(large, [small], small, torch.tensor([0.0, 1.0]), None)
    assert alpha.isnan().all()
    assert fused.isnan().all()


@pytest.mark.parametrize(("tokens", "dim"), [(1, 3), (2, 1), (9, 4)])
def test_adjacent_similarity_is_the_naive_cosine(tokens: int, dim: int) -> None:
    keys = randn(tokens, 2, dim, seed=10, dtype=D)
    keys[tokens // 2, 0] = 0
    links = reference.adjacent_similarity(keys, None, tokens)
    for head in range(2):
        assert links[head].tolist() == pytest.approx(naive.adjacent_similarity(keys[:, head].tolist()))


@pytest.mark.parametrize(("tokens", "window"), [(1, 1), (7, 1), (7, 3), (7, 7)])
def test_window_scores_are_the_naive_attention(tokens: int, window: int) -> None:
    keys, query = randn(tokens, 2, 3, seed=11, dtype=D), randn(window, 6, 3, seed=12, dtype=D)
    scores = reference.window_scores(query, keys, None, tokens, 0.7)
    for head in range(2):
        asked = query[:, 3 * head : 3 * head + 3].tolist()
        assert scores[head].tolist() == pytest.approx(naive.window_scores(asked, keys[:, head].tolist(), 0.7))


def test_paged_keys_are_read_in_the_order_of_the_block_table() -> None:
    keys, query = randn(10, 2, 3, seed=13, dtype=D), randn(2, 2, 3, seed=14, dtype=D)
    pages, table = torch.zeros(5, 4, 2, 3, dtype=D), torch.tensor([3, 0, 4], dtype=torch.int32)
    for token in range(10):
        pages[table[token // 4], token % 4] = keys[token]
    plain, paged = (keys, None, 10), (pages, table, 10)
    assert torch.equal(reference.adjacent_similarity(*paged), reference.adjacent_similarity(*plain))
    assert torch.equal(
        reference.window_scores(query, *paged, 1.0), reference.window_scores(query, *plain, 1.0)
    )


@pytest.mark.parametrize("seed", range(20))
def test_merge_segments_are_the_naive_choice(seed: int) -> None:
    tokens = 3 + seed
    sinks, heavy = seed % 5, seed % 3
    least = min(tokens, sinks + 2 * heavy + 1)
    slots = least + seed % (tokens - least + 1)
    # Few distinct values, so that there are ties; and some NaN.
    similarity = (
        randn(2, tokens - 1, seed=seed).round().masked_fill(randn(2, tokens - 1, seed=99) > 1, math.nan)
    )
    scores = (
        randn(2, tokens + 2, seed=seed + 50).round().masked_fill(randn(2, tokens + 2, seed=98) > 1, math.nan)
    )
    segments = reference.merge_segments(similarity, scores, slots, sinks, heavy)
    assert segments.dtype == torch.int32
    assert segments[:, -1].tolist() == [slots - 1] * 2
    for head in range(2):
        wanted = naive.merge_segments(
            similarity[head].tolist(), scores[head, :tokens].tolist(), slots, sinks, heavy
        )
        assert segments[head].tolist() == wanted


@pytest.mark.parametrize("sigma", [None, 0.8])
def test_merge_kv_is_the_naive_mean(sigma: float | None) -> None:
    keys, values = randn(9, 2, 3, seed=15, dtype=D), randn(9, 2, 3, seed=16, dtype=D)
    keys[3, 1] = keys[4, 1]
    values[4, 0, 0] = -0.0
    scores = randn(2, 9, seed=17).round()
    scores[0, 2] = math.nan
    segments = torch.tensor([[0, 1, 1, 1, 2, 3, 3, 3, 3], [0, 0, 0, 1, 1, 2, 3, 3, 3]], dtype=torch.int32)
    old_keys, old_values = keys.clone(), values.clone()
    counts = reference.merge_kv_(keys, values, scores, segments, None, 4, sigma)
    assert counts.tolist() == [[1, 3, 1, 4], [3, 2, 1, 3]]
    for head in range(2):
        for slot in range(4):
            run = (segments[head] == slot).nonzero().flatten()
            key, value = naive.merge_run(
                old_keys[run, head].tolist(),
                old_values[run, head].tolist(),
                scores[head, run].tolist(),
                sigma,
            )
            assert keys[5 + slot, head].tolist() == pytest.approx(key)
            assert values[5 + slot, head].tolist() == pytest.approx(value)
    assert values[7, 0, 0].signbit()


def test_merge_kv_in_pages_writes_the_sequence_s_last_tokens() -> None:
    keys, values = randn(7, 1, 2, seed=18, dtype=D), randn(7, 1, 2, seed=19, dtype=D)
    table = permutation(4, seed=20)[:3].int()
    pages = [torch.full((4, 3, 1, 2), 7.0, dtype=D) for _ in range(2)]
    for token in range(7):
        pages[0][table[token // 3], token % 3] = keys[token]
        pages[1][table[token // 3], token % 3] = values[token]
    scores, segments = torch.ones(1, 7), torch.tensor([[0, 0, 1, 1, 1, 2, 2]], dtype=torch.int32)
    reference.merge_kv_(pages[0], pages[1], scores, segments, table, 3, None)
    reference.merge_kv_(keys, values, scores, segments, None, 3, None)
    for token in range(4, 7):
        assert torch.equal(pages[0][table[token // 3], token % 3], keys[token])
        assert torch.equal(pages[1][table[token // 3], token % 3], values[token])
    free = next(i for i in range(4) if i not in table.tolist())
    assert (pages[0][free] == 7).all()
    assert (pages[0][table[2], 1:] == 7).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    rows = randn(3, 50, seed=21, dtype=dtype, scale=3)
    bits = reference.entropy(rows, None)
    assert bits.dtype == torch.float32
    assert bits.tolist() == pytest.approx(reference.entropy(rows.double(), None).tolist(), abs=2e-6)
