"""The operators of `kernels.ops` in plain torch: what runs where nothing native does, and the tests' oracle.

One function per schema of `kernels.schemas`, with its parameters. Written to be plainly right rather than
fast, on any device. float64 inputs are computed and returned in float64, so that tests can judge float32 by
it; all others are computed in float32.
"""

import math

import torch
from torch import Tensor

NEG_INF = -math.inf


def entropy(logits: Tensor, rows: Tensor | None) -> Tensor:
    """`kernels.ops.entropy`."""
    return _entropy(_wide(_rows(logits, _checked_rows(rows, logits))))


def fuse_logits_(
    base: Tensor,
    guides: list[Tensor],
    weights: Tensor,
    normalise: bool,
    alpha: Tensor | None,
    gate: Tensor | None,
    rows: Tensor | None,
) -> Tensor:
    """`kernels.ops.fuse_logits_`."""
    rows = _checked_rows(rows, base)
    before = _rows(base, rows)
    logits = _wide(before)
    total = _log_softmax(logits) if normalise else logits
    ruled_out = logits == NEG_INF
    for guide, weight in zip(guides, weights.to(total.dtype).unsqueeze(-1), strict=True):
        term = _wide(_rows(guide, rows))
        used = weight != 0
        ruled_out = ruled_out | (used & (term == NEG_INF))
        term = _log_softmax(term) if normalise else term
        total = torch.where(used, total + weight * term, total)
    if alpha is not None:
        # Judged in float32 whatever the inputs, so that a token on the edge falls on the same side for all.
        below_top = (logits - logits.amax(-1, keepdim=True)).float()
        plausible = below_top >= alpha.double().log().float().unsqueeze(-1)
        ruled_out = ruled_out | ((alpha > 0).unsqueeze(-1) & ~plausible)
    opened = _opened(logits, gate)
    fused = total.masked_fill(ruled_out, NEG_INF).to(base.dtype)
    _write_rows(base, rows, torch.where(opened.unsqueeze(-1), fused, before))
    return opened


def dynamic_fusion(
    large: Tensor, experts: list[Tensor], small: Tensor, grid: Tensor, gate: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`kernels.ops.dynamic_fusion`, with alpha `[experts, rows]` always."""
    return _dynamic_fusion(large, experts, small, grid, gate)


def dynamic_fusion_(
    large: Tensor,
    experts: list[Tensor],
    small: Tensor,
    grid: Tensor,
    gate: Tensor | None,
    rows: Tensor | None,
) -> Tensor:
    """`kernels.ops.dynamic_fusion_`, with alpha `[experts, n]` always."""
    rows = _checked_rows(rows, large)
    alpha, fused = _dynamic_fusion(
        _rows(large, rows), [_rows(one, rows) for one in experts], _rows(small, rows), grid, gate
    )
    _write_rows(large, rows, fused)
    return alpha


def pikl(
    generator: Tensor,
    discriminator: Tensor,
    lengths: Tensor,
    eta_g: float,
    lam_g: float,
    eta_d: float,
    lam_d: float,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """`kernels.ops.pikl`."""
    _in_range("lengths", lengths, 1, generator.shape[2] + 1)
    # Both players as [games, v, y] from here on; y is summed over in dim 2, v in dim 1.
    candidates = torch.arange(generator.shape[2], device=generator.device)
    beyond = (candidates >= lengths.unsqueeze(-1)).unsqueeze(1)
    said = generator.masked_fill(beyond, NEG_INF)
    judged = discriminator.transpose(1, 2).masked_fill(beyond, NEG_INF)

    no_g, no_d = said == NEG_INF, judged == NEG_INF
    first_g = (said - said.logsumexp(1, keepdim=True)).masked_fill(no_g, NEG_INF).log_softmax(2)
    first_d = (judged - judged.logsumexp(2, keepdim=True)).masked_fill(no_d, NEG_INF).log_softmax(1)
    first_d = first_d.masked_fill(beyond, NEG_INF)

    log_g, log_d = first_g, first_d
    mean_g, mean_d = torch.zeros_like(first_g), torch.zeros_like(first_d)
    for t in range(1, iterations + 1):
        mean_g = mean_g + (log_g.exp() - mean_g) / t
        mean_d = mean_d + (log_d.exp() - mean_d) / t
        score_g = (mean_d / 2 + lam_g * first_g) / (1 / (eta_g * t) + lam_g)
        score_d = (mean_g / 2 + lam_d * first_d) / (1 / (eta_d * t) + lam_d)
        log_g = score_g.masked_fill(no_g, NEG_INF).log_softmax(2)
        log_d = score_d.masked_fill(no_d, NEG_INF).log_softmax(1).masked_fill(beyond, NEG_INF)
    return log_g.masked_fill(beyond, NEG_INF), log_d.transpose(1, 2).contiguous()


def adjacent_similarity(keys: Tensor, block_table: Tensor | None, length: int) -> Tensor:
    """`kernels.ops.adjacent_similarity`."""
    tokens = _wide(keys[_places(keys, block_table, length)]).transpose(0, 1)
    norms = tokens.norm(dim=-1).clamp(min=1e-12)
    dots = (tokens[:, :-1] * tokens[:, 1:]).sum(-1)
    return dots / (norms[:, :-1] * norms[:, 1:])


def window_scores(
    query: Tensor, keys: Tensor, block_table: Tensor | None, length: int, scale: float
) -> Tensor:
    """`kernels.ops.window_scores`; holds one key head's `[group, window, length]` at a time."""
    tokens = keys[_places(keys, block_table, length)]
    window, heads = len(query), tokens.shape[1]
    group = query.shape[1] // heads
    position = torch.arange(length, device=keys.device)
    future = position > position[length - window :].unsqueeze(-1)
    sums = []
    for head in range(heads):
        asked = _wide(query[:, head * group : (head + 1) * group]).transpose(0, 1)
        dots = asked @ _wide(tokens[:, head]).T
        sums.append((dots * scale).masked_fill(future, NEG_INF).softmax(-1).sum((0, 1)))
    return torch.stack(sums)


def slot_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mass: Tensor,
    block_table: Tensor | None,
    length: int,
    scale: float,
) -> Tensor:
    """`kernels.ops.slot_attention`; holds one key head's `[tokens, group, length]` at a time."""
    places = _places(keys, block_table, length)
    seen, wide = _wide(keys[places]), _wide(values[places])
    tokens, group = len(query), query.shape[1] // seen.shape[1]
    bias = seen.new_zeros(seen.shape[1], length)
    bias[:, : mass.shape[1]] = mass.to(bias.dtype).log()
    position = torch.arange(length, device=keys.device)
    future = position > position[length - tokens :].unsqueeze(-1)  # [tokens, length]
    heads = []
    for head, asked in enumerate(_wide(query).split(group, 1)):
        logits = (asked @ seen[:, head].T) * scale + bias[head]
        weights = logits.masked_fill(future.unsqueeze(1), NEG_INF).softmax(-1)
        heads.append(weights @ wide[:, head])
    return torch.cat(heads, 1).to(query.dtype)


def merge_segments(similarity: Tensor, scores: Tensor, slots: int, sinks: int, heavy: int) -> Tensor:
    """`kernels.ops.merge_segments`."""
    heads, tokens = len(similarity), similarity.shape[1] + 1
    sink = (torch.arange(tokens, device=scores.device) < sinks).expand(heads, tokens)
    best = _best_first(scores[:, :tokens], last=sink)[:, : min(heavy, max(tokens - sinks, 0))]
    protected = sink.scatter(1, best, True)
    closed = protected[:, :-1] | protected[:, 1:]
    taken = _best_first(similarity, last=closed)[:, : tokens - slots]
    starts = torch.ones_like(closed).scatter(1, taken, False)
    first = torch.zeros(heads, 1, dtype=torch.int32, device=scores.device)
    return torch.cat([first, starts.cumsum(1, dtype=torch.int32)], 1)


def merge_kv_(
    keys: Tensor,
    values: Tensor,
    scores: Tensor,
    segments: Tensor,
    block_table: Tensor | None,
    slots: int,
    sigma: float | None,
) -> Tensor:
    """`kernels.ops.merge_kv_`."""
    heads, tokens = segments.shape
    ends = (segments[:, 0] == 0) & (segments[:, -1] == slots - 1)
    steps = segments.diff(dim=1)
    in_order = ends.all() & ((steps == 0) | (steps == 1)).all()
    _require(in_order, f"segments must rise from 0 to {slots - 1} without a gap")
    places = _places(keys, block_table, tokens)
    old_keys, old_values = (cache[places].transpose(0, 1) for cache in (keys, values))
    slot = segments.long()
    counts = torch.zeros(heads, slots, dtype=torch.long, device=keys.device)
    counts.scatter_add_(1, slot, torch.ones_like(slot))

    order = _best_first(scores[:, :tokens])
    rank = order.argsort(-1)
    best = torch.full_like(counts, tokens - 1).scatter_reduce_(1, slot, rank, "amin")
    pivot = order.gather(1, best)

    each = torch.arange(heads, device=keys.device).unsqueeze(-1)
    wide_keys = _wide(old_keys)
    distance = (wide_keys - wide_keys[each, pivot.gather(1, slot)]).norm(dim=-1)
    if sigma is None:
        mean = _slot_sums(distance, counts) / counts
        width = (mean.clamp(min=1e-6) / math.sqrt(2)).gather(1, slot)
    else:
        width = torch.full_like(distance, sigma)
    weight = (-((distance / width) ** 2) / 2).exp()
    share = (weight / _slot_sums(weight, counts).gather(1, slot)).unsqueeze(-1)

    target = tuple(place[tokens - slots :] for place in places)
    alone = (counts == 1).unsqueeze(-1)
    for cache, old in ((keys, old_keys), (values, old_values)):
        merged = _slot_sums(share * _wide(old), counts).to(cache.dtype)
        # A lone token is copied, not computed: adding to zero would turn -0.0 into 0.0.
        cache[target] = torch.where(alone, old[each, pivot], merged).transpose(0, 1)
    return counts.int()


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _require(holds: Tensor, message: str) -> None:
    """IndexError unless it holds; on a GPU an assertion there, so that nothing waits."""
    if holds.device.type != "cpu":
        torch._assert_async(holds, message)
    elif not holds:
        raise IndexError(message)


def _in_range(name: str, index: Tensor, low: int, high: int) -> None:
    _require(((index >= low) & (index < high)).all(), f"{name} must lie in {low} .. {high - 1}")


def _checked_rows(rows: Tensor | None, logits: Tensor) -> Tensor | None:
    if rows is not None:
        _in_range("rows", rows, 0, len(logits))
    return rows


def _rows(logits: Tensor, rows: Tensor | None) -> Tensor:
    return logits if rows is None else logits.index_select(0, rows)


def _write_rows(logits: Tensor, rows: Tensor | None, new: Tensor) -> None:
    if rows is None:
        logits.copy_(new)
    else:
        logits.index_copy_(0, rows, new)


def _entropy(logits: Tensor) -> Tensor:
    logprobs = _log_softmax(logits)
    return -_sum(torch.where(logprobs == NEG_INF, 0.0, logprobs.exp() * logprobs)) / math.log(2)


def _log_softmax(logits: Tensor) -> Tensor:
    # torch adds 262144 float32 terms with an error of 1e-4; in float64 that is nothing.
    return logits.log_softmax(-1, dtype=torch.float64).to(logits.dtype)


def _sum(terms: Tensor) -> Tensor:
    # torch splits a lone row among its threads; in float64 their number does not show.
    return terms.sum(-1, dtype=torch.float64).to(terms.dtype)


def _opened(logits: Tensor, gate: Tensor | None) -> Tensor:
    if gate is None:
        return torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    return _entropy(logits) > gate


def _dynamic_fusion(
    large: Tensor, experts: list[Tensor], small: Tensor, grid: Tensor, gate: Tensor | None
) -> tuple[Tensor, Tensor]:
    base, lesser, wide = _wide(large), _wide(small), [_wide(one) for one in experts]
    grid = grid.to(base.dtype)
    ruled_out = torch.stack([one == NEG_INF for one in (base, lesser, *wide)]).any(0)

    def logprobs(logits: Tensor) -> Tensor:
        return _log_softmax(logits.masked_fill(ruled_out, NEG_INF))

    def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
        p = log_p.exp()
        return _sum(torch.where(p == 0, 0.0, p * (log_p - log_q)))

    log_large, log_small = logprobs(base), logprobs(lesser)
    targets = [divergence(logprobs(one), log_small) for one in wide]
    shifts = [one - lesser for one in wide]
    losses = []
    for shift in shifts:
        for step in grid:
            moved = divergence(logprobs(base + step * shift), log_large)
            losses.append(torch.stack([(moved - target) ** 2 for target in targets]).sum(0))

    # argmin gives the first of equals: the order is expert by expert, then along the grid.
    choice = torch.stack(losses).argmin(0)
    opened = _opened(base, gate)
    none_left = ruled_out.all(-1)
    chosen = torch.arange(len(wide), device=base.device).unsqueeze(-1) == choice // len(grid)
    alpha = torch.where(chosen & opened, grid[choice % len(grid)], 0.0)
    fused = base
    for shift, mine, step in zip(shifts, chosen, alpha, strict=True):
        fused = torch.where(mine.unsqueeze(-1), base + step.unsqueeze(-1) * shift, fused)
    fused = fused.masked_fill(ruled_out, NEG_INF).masked_fill(none_left.unsqueeze(-1), math.nan)
    alpha = alpha.masked_fill(none_left & opened, math.nan)
    return alpha, torch.where(opened.unsqueeze(-1), fused.to(large.dtype), large)


def _places(cache: Tensor, block_table: Tensor | None, length: int) -> tuple[Tensor, ...]:
    """Where the sequence's tokens lie: indices into `[tokens, ..]`, or into `[blocks, block_size, ..]`."""
    position = torch.arange(length, device=cache.device)
    if block_table is None:
        return (position,)
    size = cache.shape[1]
    used = block_table[: -(-length // size)].long()
    _in_range("block_table", used, 0, len(cache))
    return used[position // size], position % size


def _best_first(values: Tensor, last: Tensor | None = None) -> Tensor:
    """Indices by descending value: of equals the earlier first, NaN after all numbers, then `last`."""
    nan = values.isnan()
    # Adding 0.0 makes -0.0 and 0.0 equal for a radix sort too.
    order = (values.masked_fill(nan, NEG_INF) + 0.0).argsort(dim=-1, descending=True, stable=True)
    group = nan.int() if last is None else nan.int() + 2 * last.int()
    return order.gather(-1, group.gather(-1, order).argsort(dim=-1, stable=True))


def _slot_sums(values: Tensor, counts: Tensor) -> Tensor:
    """Sum `[heads, tokens, ..]` over each slot's run of tokens, `[heads, slots, ..]`, in one fixed order."""
    sums = torch.segment_reduce(values.flatten(0, 1), "sum", lengths=counts.flatten(), axis=0, unsafe=True)
    return sums.unflatten(0, counts.shape)
