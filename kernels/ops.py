"""Operators that decoding methods call: over logits `[rows, vocab]`, small games, and keys and values.

Each is one function, whatever runs it: a native library (`kernels/csrc`) or, where none could be built, the
plain torch of `kernels/reference.py`; `kernels.native.status()` says which, and why. Operators are registered
with torch as `torch.ops.decant.*` with fake implementations, so they work under `torch.compile` and CUDA
graphs. They are for inference: no gradients.

Common to all. Logits, keys and values are float32, bfloat16 or float16; arithmetic is float32, sums over the
vocabulary are compensated or kept in wider partial sums. All tensors of a call lie on one device. Equal
inputs give bit-equal outputs, whatever the number of threads. A tensor whose last dimension is not contiguous
is copied first. Wrong shapes, dtypes and devices raise ValueError, values out of range ValueError or
IndexError; all name the argument. What only reading device memory could show (`rows`, `lengths`,
`block_table`, `segments` out of range) raises IndexError on a CPU and is a device-side assertion on a GPU,
because no operator waits for the device.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from kernels import checks, registration

registration.register()

_ops = torch.ops.decant

Guides: TypeAlias = Tensor | Sequence[Tensor]
PerRow: TypeAlias = float | Tensor | None


def entropy(logits: Tensor, rows: Tensor | None = None) -> Tensor:
    """Shannon entropy of softmax(logits) over the whole vocabulary, in bits, of each row.

    H = -sum p log2 p (arXiv 2502.06833, section 3). A token at -inf has no share. A row that has no
    distribution (all -inf, a NaN or +inf in it) gives NaN.

    logits: `[rows, vocab]`, vocab >= 1. rows: `[n]` integer indices; only these rows are read, in this order.
    Returns float32 `[rows]` or `[n]`.
    """
    checks.logits("logits", logits)
    rows = checks.row_index(rows, logits)
    return _ops.entropy(checks.dense(logits), rows)


def fuse_logits_(
    base: Tensor,
    guides: Guides,
    weights: Tensor,
    normalise: bool = False,
    *,
    alpha: PerRow = None,
    gate: PerRow = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Add weighted guide logits to base logits, in place: base + sum_k weights[k] * guides[k].

    Sources: GenARM (arXiv 2410.08193, eq. 8), DExperts (arXiv 2105.03023, eq. 1), contrastive decoding (arXiv
    2210.15097, eq. 2 and 3), inverse value learning (arXiv 2410.21027). With `normalise`, base and each guide
    are replaced by their log-softmax first (the sum itself is not normalised again).

    A token that base, or a guide of non-zero weight in that row, gives -inf is ruled out: it gets -inf,
    whatever the sign of the weight. A guide of weight zero is not read in that row. A row whose weights are
    all zero is still normalised and masked if those are asked for.

    base: `[rows, vocab]`, changed in place. guides: `[guides, rows, vocab]` or a sequence of `[rows, vocab]`,
    one dtype, which may differ from base's; 1 to 16 of them, not sharing memory with base. weights: `[guides,
    n]`, finite. alpha: plausibility mask; tokens with p_base < alpha * max p_base become -inf. A number or
    `[n]`, in [0, 1]; 0 or None masks nothing. gate: entropy in bits; a row whose base entropy does not exceed
    it is left exactly as it is. A number or `[n]`; None opens every row. rows: `[n]` distinct indices of the
    rows (of base and guides alike) to work on; others are neither read nor written. Without it n = rows, and
    entry i belongs to row i.

    Returns bool `[n]`: where the row was worked on, that is, where the gate was open.
    """
    checks.logits("base", base)
    checks.writable("base", base)
    terms = checks.terms("guides", guides, base, most=16)
    rows = checks.row_index(rows, base, distinct=True)
    count = len(base) if rows is None else len(rows)
    weights = checks.per_guide("weights", weights, len(terms), count, base)
    alpha_rows = checks.per_row("alpha", alpha, count, base, low=0.0, high=1.0)
    gate_rows = checks.per_row("gate", gate, count, base)
    with checks.dense_in_place(base) as work:
        return _ops.fuse_logits_(work, terms, weights, normalise, alpha_rows, gate_rows, rows)


def dynamic_fusion(
    large: Tensor,
    experts: Guides,
    small: Tensor,
    grid: Sequence[float] | Tensor | None = None,
    *,
    gate: PerRow = None,
) -> tuple[Tensor, Tensor]:
    """Dynamic logit fusion (arXiv 2406.15480, eq. 6 and 8): transfer small experts' shift to a large model.

    L~ = large + sum_k a_k (expert_k - small), with P~, P, Q_k, Q the softmax of L~, large, expert_k, small.
    At most one a_k is not zero; it is taken from `grid`, per row, to minimise sum_k (KL(P~||P) -
    KL(Q_k||Q))^2. Of equal ones the first expert and the first grid point win. A token that any of the models
    gives -inf is ruled out: it gets -inf in the result and is left out of every divergence. A row without a
    finite token in common gives NaN.

    large, small: `[rows, vocab]`. experts: one `[rows, vocab]`, or a sequence or stack `[experts, rows,
    vocab]`, 1 to 16. The three may differ in dtype, the experts and small may not. grid: 1 to 64 finite
    values, by default 0, 0.1, ..., 2. gate: as in `fuse_logits_`, on large's entropy; a closed row keeps
    large's logits and gets alpha 0.

    Returns (alpha, fused): alpha float32 `[rows]` for a single `[rows, vocab]` expert, else `[experts,
    rows]`; fused `[rows, vocab]` in large's dtype.
    """
    terms, points, gate_rows, _ = _fusion(large, experts, small, grid, gate, None)
    alpha, fused = _ops.dynamic_fusion(checks.dense(large), terms, checks.dense(small), points, gate_rows)
    return (alpha[0] if _single(experts) else alpha), fused


def dynamic_fusion_(
    large: Tensor,
    experts: Guides,
    small: Tensor,
    grid: Sequence[float] | Tensor | None = None,
    *,
    gate: PerRow = None,
    rows: Tensor | None = None,
) -> Tensor:
    """`dynamic_fusion` that writes the fused logits into `large`; `rows` as in `fuse_logits_`. Returns alpha.

    alpha: float32 `[n]` for a single `[rows, vocab]` expert, else `[experts, n]`.
    """
    terms, points, gate_rows, rows = _fusion(large, experts, small, grid, gate, rows)
    checks.writable("large", large)
    with checks.dense_in_place(large) as work:
        alpha = _ops.dynamic_fusion_(work, terms, checks.dense(small), points, gate_rows, rows)
    return alpha[0] if _single(experts) else alpha


def pikl(
    generator: Tensor,
    discriminator: Tensor,
    eta: float | tuple[float, float] = 0.1,
    lam: float | tuple[float, float] = 0.1,
    iterations: int = 5000,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Equilibrium of consensus games by piKL-hedge (The Consensus Game, arXiv 2310.09139, section 3).

    Inputs are unnormalised log-probabilities (natural log); index 0 of the two is `incorrect`, 1 is
    `correct`: generator[g, v, y] = log P_LM(y|x,v), discriminator[g, y, v] = log P_LM(v|x,y). The initial
    policies pi_G1, pi_D1 are made from them, each normalised against its own ambiguity; then, for t = 1 ..
    iterations, with Q the running mean of the other player's policy, halved, both players move at once:

        pi_G(y|v) ~ exp{(Q_G + lam log pi_G1)/(1/(eta t) + lam)} over y, pi_D(v|y) likewise over v

    Everything is in log space, in the inputs' dtype: float32 or float64.

    generator: `[games, 2, candidates]`. discriminator: `[games, candidates, 2]`. eta (> 0), lam (>= 0): for
    both players or (generator's, discriminator's). iterations: >= 0; 0 gives the initial policies. lengths:
    `[games]` integers in 1 .. candidates, how many candidates each game has; what lies beyond is not read and
    comes back as -inf. -inf marks a candidate the generator rules out for that v. A game without any possible
    candidate gives NaN.

    Returns (log pi_G `[games, 2, candidates]`, log pi_D `[games, candidates, 2]`) after the last iteration.
    """
    checks.game(generator, discriminator)
    eta_g, eta_d = checks.pair("eta", eta, positive=True)
    lam_g, lam_d = checks.pair("lam", lam, positive=False)
    checks.at_least("iterations", iterations, 0)
    lengths = checks.lengths(lengths, generator)
    return _ops.pikl(
        generator.contiguous(), discriminator.contiguous(), lengths, eta_g, lam_g, eta_d, lam_d, iterations
    )


def adjacent_similarity(
    keys: Tensor, *, block_table: Tensor | None = None, length: int | None = None
) -> Tensor:
    """Cosine similarity of each token's key and the next one's (KVMerger, arXiv 2407.08454, eq. 3).

    keys: contiguous `[tokens, heads, dim]`, or a paged cache `[blocks, block_size, heads, dim]` with
    `block_table` (integer `[n]`: where the sequence's blocks lie, in order), in any strides; dim >= 1.
    length: tokens to look at, by default all. A key of norm 0 has similarity 0. Returns float32 `[heads,
    length - 1]`: link i joins tokens i and i+1.
    """
    block_table, length = checks.sequence(keys, block_table, length)
    return _ops.adjacent_similarity(checks.dense(keys), block_table, length)


def window_scores(
    query: Tensor,
    keys: Tensor,
    scale: float,
    *,
    block_table: Tensor | None = None,
    length: int | None = None,
) -> Tensor:
    """Attention mass each key gets from the queries of the last tokens (KVMerger, section 3; SnapKV, arXiv
    2404.14469).

    Causal softmax attention of the last `window` tokens over all `length` tokens, summed over the window's
    queries and over the query heads that share a key head. query: `[window, query_heads, dim]`, 1 <= window
    <= length, query_heads a multiple of heads. keys, block_table, length: as in `adjacent_similarity`. scale:
    multiplies the dot products. Neither the score matrix nor any tensor `[heads, window, tokens]` is held.
    Returns float32 `[heads, length]`; each row sums to window * query_heads / heads.
    """
    block_table, length = checks.sequence(keys, block_table, length)
    checks.query(query, keys, length)
    checks.finite("scale", scale)
    return _ops.window_scores(checks.dense(query), checks.dense(keys), block_table, length, float(scale))


def merge_segments(similarity: Tensor, scores: Tensor, slots: int, sinks: int = 4, heavy: int = 0) -> Tensor:
    """Which slot each token goes to, so that exactly `slots` are left (after KVMerger, arXiv 2407.08454,
    section 3).

    The first `sinks` tokens and, per head, the `heavy` tokens of the highest score among the others are
    protected: they stay alone. Of the links that touch no protected token the most similar `tokens - slots`
    are taken, whatever their similarity (ours: a paged cache needs whole blocks). Of equal scores or
    similarities the earlier token wins; NaN counts as less than any number.

    similarity: float32 `[heads, tokens - 1]`. scores: float32 `[heads, >= tokens]`. slots: in 1 .. tokens,
    and at least min(tokens, sinks + 2 * heavy + 1), so that it can be met wherever the heavy ones lie (with
    heavy 0: sinks + 1). Returns int32 `[heads, tokens]`, non-decreasing, with every value in 0 .. slots - 1.
    """
    checks.segmentable(similarity, scores, slots, sinks, heavy)
    return _ops.merge_segments(checks.dense(similarity), checks.dense(scores), slots, sinks, heavy)


def merge_kv_(
    keys: Tensor,
    values: Tensor,
    scores: Tensor,
    segments: Tensor,
    slots: int,
    *,
    block_table: Tensor | None = None,
    sigma: float | None = None,
) -> Tensor:
    """Merge each slot's keys and values into one, in place (KVMerger, arXiv 2407.08454, eq. 4 to 6).

    A slot's pivot is its token of the highest score (the first of equals; NaN counts as less than any
    number). Token i weighs exp(-||k_pivot - k_i||^2 / (2 sigma^2)), normalised over the slot; merged key and
    value are the weighted means. Slot j of a head is written to token `tokens - slots + j`, so that the
    cache's leading tokens fall free; their contents are undefined afterwards, except that a lone token's row
    is copied bit for bit.

    keys, values: as in `adjacent_similarity`, of one shape and dtype, changed in place. scores: float32
    `[heads, >= tokens]`. segments: int32 `[heads, tokens]` as `merge_segments` returns it. slots: its number
    of slots. sigma: in units of the keys' distance, > 0; None takes the slot's mean distance to its pivot /
    sqrt 2 (ours).

    Returns int32 `[heads, slots]`: how many tokens each slot stands for.
    """
    checks.mergeable(keys, values, scores, segments, slots, sigma)
    block_table, _ = checks.sequence(keys, block_table, segments.shape[1])
    with checks.dense_in_place(keys) as dense_keys, checks.dense_in_place(values) as dense_values:
        return _ops.merge_kv_(
            dense_keys, dense_values, checks.dense(scores), segments.contiguous(), block_table, slots, sigma
        )


def slot_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mass: Tensor,
    scale: float,
    *,
    block_table: Tensor | None = None,
    length: int | None = None,
) -> Tensor:
    """Causal attention of a sequence's last tokens, whose first entries stand for several tokens each.

    Entry j weighs exp(scale q.k_j + log mass_j), normalised: a slot that stands for n tokens gets the share
    that n tokens with its key would get together (KVMerger, arXiv 2407.08454, leaves it the share of one).

    query: `[tokens, query_heads, dim]`, of the sequence's last tokens, query_heads a multiple of heads. keys,
    values, block_table, length: as in `adjacent_similarity`, of one shape and dtype, query's too; keys may
    also lie with a block's tokens next to each other, as vLLM keeps them on a CPU. mass: float32 `[heads,
    slots]`, > 0, slots <= length; entries behind these have mass 1. scale: multiplies the dot products.
    Returns `[tokens, query_heads, dim]` in query's dtype.
    """
    block_table, length = checks.sequence(keys, block_table, length)
    checks.query(query, keys, length)
    checks.like("values", values, keys, dtype=keys.dtype)
    checks.mass(mass, keys, length)
    checks.finite("scale", scale)
    return _ops.slot_attention(
        checks.dense(query),
        checks.dense_or_by_dim(keys),
        checks.dense(values),
        checks.dense(mass),
        block_table,
        length,
        float(scale),
    )


def _single(experts: Guides) -> bool:
    return isinstance(experts, Tensor) and experts.dim() == 2


def _fusion(
    large: Tensor,
    experts: Guides,
    small: Tensor,
    grid: Sequence[float] | Tensor | None,
    gate: PerRow,
    rows: Tensor | None,
) -> tuple[list[Tensor], Tensor, Tensor | None, Tensor | None]:
    checks.logits("large", large)
    terms = checks.terms("experts", experts, large, most=16)
    checks.like("small", small, large, dtype=terms[0].dtype)
    points = checks.grid(grid, large)
    rows = checks.row_index(rows, large, distinct=True)
    count = len(large) if rows is None else len(rows)
    return terms, points, checks.per_row("gate", gate, count, large), rows
