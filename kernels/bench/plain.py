"""What one would write without these operators: the straightforward torch, and numpy for the games."""

import math
from typing import Any

import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1) / math.log(2)


def weighted_sum(base: Tensor, guide: Tensor, weights: Tensor) -> Tensor:
    """In place, in the one torch call there is for it."""
    return base.addcmul_(guide, weights.unsqueeze(-1))


def genarm(base: Tensor, guide: Tensor, weights: Tensor) -> Tensor:
    return base.log_softmax(-1) + weights.unsqueeze(-1) * guide.log_softmax(-1)


def contrastive(
    base: Tensor, guide: Tensor, weights: Tensor, alpha: float = 0.1, gate: float = 0.1
) -> Tensor:
    fused = genarm(base, guide, weights)
    probs = base.softmax(-1)
    fused = fused.masked_fill(probs < alpha * probs.amax(-1, keepdim=True), -math.inf)
    return torch.where((entropy(base) > gate).unsqueeze(-1), fused, base)


def dynamic_fusion(large: Tensor, expert: Tensor, small: Tensor, grid: list[float]) -> Tensor:
    def divergence(p: Tensor, q: Tensor) -> Tensor:
        return (p.exp() * (p - q)).sum(-1)

    base, shift = large.log_softmax(-1), expert - small
    target = divergence(expert.log_softmax(-1), small.log_softmax(-1))
    losses = [(divergence((large + a * shift).log_softmax(-1), base) - target) ** 2 for a in grid]
    alpha = torch.tensor(grid, device=large.device)[torch.stack(losses).argmin(0)]
    return large + alpha.unsqueeze(-1) * shift


def pikl(np: Any, generator: Any, discriminator: Any, eta: float, lam: float, iterations: int) -> Any:
    """Vectorised numpy over the games: log-probabilities `[games, 2, y]` and `[games, y, 2]`."""

    def log_softmax(x: Any, axis: int) -> Any:
        x = x - x.max(axis, keepdims=True)
        return x - np.log(np.exp(x).sum(axis, keepdims=True))

    first_g = log_softmax(generator - np.logaddexp.reduce(generator, 1, keepdims=True), 2)
    first_d = log_softmax(discriminator - np.logaddexp.reduce(discriminator, 1, keepdims=True), 2)
    g, d = first_g, first_d
    sum_g, sum_d = np.zeros_like(first_g), np.zeros_like(first_d)
    for t in range(1, iterations + 1):
        sum_g += np.exp(g)
        sum_d += np.exp(d)
        scale = 1 / (1 / (eta * t) + lam)
        g = log_softmax((sum_d.transpose(0, 2, 1) / (2 * t) + lam * first_g) * scale, 2)
        d = log_softmax((sum_g.transpose(0, 2, 1) / (2 * t) + lam * first_d) * scale, 2)
    return g, d


def window_scores(query: Tensor, keys: Tensor, scale: float) -> Tensor:
    (window, query_heads, dim), (tokens, heads) = query.shape, keys.shape[:2]
    grouped = query.float().view(window, heads, query_heads // heads, dim)
    logits = torch.einsum("whgd,phd->hgwp", grouped, keys.float()) * scale
    position = torch.arange(tokens, device=keys.device)
    causal = position <= (tokens - window + torch.arange(window, device=keys.device)).unsqueeze(-1)
    return logits.masked_fill(~causal, -math.inf).softmax(-1).sum((1, 2))


def adjacent_similarity(keys: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(keys.float(), dim=-1)
    return (unit[:-1] * unit[1:]).sum(-1).t()


def merge_segments(keys: Tensor, scores: Tensor, slots: int, sinks: int, heavy: int) -> Tensor:
    """Similarity and selection in one, by sorting."""
    tokens, heads, _ = keys.shape
    protected = torch.zeros(heads, tokens, dtype=torch.bool, device=keys.device)
    protected[:, :sinks] = True
    top = scores.masked_fill(protected, -math.inf).argsort(dim=1, descending=True, stable=True)
    protected.scatter_(1, top[:, :heavy], True)
    links = adjacent_similarity(keys).masked_fill(protected[:, :-1] | protected[:, 1:], -math.inf)
    chosen = links.argsort(dim=1, descending=True, stable=True)[:, : tokens - slots]
    starts = torch.ones(heads, tokens, dtype=torch.long, device=keys.device)
    starts.scatter_(1, chosen + 1, 0)
    return starts.cumsum(1) - 1


def merge_kv(
    keys: Tensor, values: Tensor, scores: Tensor, segments: Tensor, slots: int
) -> tuple[Tensor, Tensor]:
    """Merged keys and values `[slots, heads, dim]`, by scattering."""
    tokens, heads, dim = keys.shape
    wide_keys, wide_values = keys.float().transpose(0, 1), values.float().transpose(0, 1)

    def per_slot(source: Tensor) -> Tensor:
        return torch.zeros(heads, slots, device=keys.device).scatter_add_(1, segments, source)

    counts = per_slot(torch.ones_like(scores))
    best = torch.full((heads, slots), -math.inf, device=keys.device).scatter_reduce_(
        1, segments, scores, "amax"
    )
    position = torch.arange(tokens, device=keys.device).expand(heads, tokens)
    first = torch.where(scores == best.gather(1, segments), position, tokens)
    pivot = torch.full((heads, slots), tokens, device=keys.device).scatter_reduce_(1, segments, first, "amin")
    center = wide_keys.gather(1, pivot.gather(1, segments).unsqueeze(-1).expand(-1, -1, dim))
    square = (wide_keys - center).square().sum(-1)
    mean = per_slot(square.sqrt()) / counts
    weight = torch.exp(-square / mean.square().gather(1, segments).clamp_min(1e-12))
    weight = weight / per_slot(weight).gather(1, segments)
    merged = []
    for source in (wide_keys, wide_values):
        out = torch.zeros(heads, slots, dim, device=keys.device)
        out.scatter_add_(1, segments.unsqueeze(-1).expand(-1, -1, dim), source * weight.unsqueeze(-1))
        merged.append(out.transpose(0, 1).to(keys.dtype))
    return merged[0], merged[1]
