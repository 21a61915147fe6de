"""What one compression does to the keys and values of one layer. Pure: it knows no vLLM."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from decoders.cache.plan import Compression
from decoders.cache.settings import Settings
from kernels import ops

# keys and values [tokens, heads, dim], changed in place: slot j of a head is written to token
# `tokens - slots + j`; scores [heads, >= tokens]. Returns where each slot's tokens lie: see `Origin`.
Compress: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, Settings, Compression], "Origin"]


class Origin(NamedTuple):
    """Where the slots come from: `segments` int32 `[heads, tokens]`, or `kept` int64 `[heads, slots]`."""

    segments: Tensor | None = None
    kept: Tensor | None = None

    def mass(self, before: Tensor, slots: int) -> Tensor:
        """How many tokens each slot stands for, `[heads, slots]`, from what those before stood for."""
        if self.segments is None:
            assert self.kept is not None
            return before.gather(1, self.kept)
        return before.new_zeros(len(before), slots).scatter_add_(1, self.segments.long(), before)


def merge(
    keys: Tensor, values: Tensor, scores: Tensor | None, settings: Settings, one: Compression
) -> Origin:
    """KVMerger (arXiv 2407.08454): runs of similar neighbours become their weighted means."""
    assert scores is not None
    similarity = ops.adjacent_similarity(keys)
    # What is attended to is often told by what stands beside it: heavy ones protect their neighbours.
    heavy = _smoothed(scores[:, : one.tokens], settings.pool)
    segments = ops.merge_segments(similarity, heavy, one.slots, settings.sinks, one.heavy)
    ops.merge_kv_(keys, values, scores, segments, one.slots, sigma=settings.sigma)
    return Origin(segments=segments)


def evict(
    keys: Tensor, values: Tensor, scores: Tensor | None, settings: Settings, one: Compression
) -> Origin:
    """SnapKV (arXiv 2404.14469): the keys that the last queries attend to most, smoothed over neighbours."""
    assert scores is not None
    smooth = _smoothed(scores[:, : one.tokens], settings.pool)
    smooth[:, : settings.sinks] = torch.inf
    # A stable sort: of equal scores the earlier token stays, on every device.
    kept = smooth.argsort(dim=1, descending=True, stable=True)[:, : one.slots].sort(dim=1).values
    return _keep(keys, values, kept, one)


def stream(
    keys: Tensor, values: Tensor, scores: Tensor | None, settings: Settings, one: Compression
) -> Origin:
    """StreamingLLM (arXiv 2309.17453): the first tokens and the last ones."""
    heads = keys.shape[1]
    position = torch.arange(one.slots, device=keys.device)
    kept = torch.where(position < settings.sinks, position, position + one.tokens - one.slots)
    return _keep(keys, values, kept.expand(heads, -1), one)


def _smoothed(scores: Tensor, pool: int) -> Tensor:
    """The maximum over `pool` neighbours of each token, `[heads, tokens]`; always a copy."""
    smooth: Tensor = torch.nn.functional.max_pool1d(scores.unsqueeze(0), pool, stride=1, padding=pool // 2)
    return smooth[0].clone()


def _keep(keys: Tensor, values: Tensor, kept: Tensor, one: Compression) -> Origin:
    """Keep the tokens `kept [heads, slots]`."""
    for cache in (keys, values):
        index = kept.t().unsqueeze(-1).expand(-1, -1, cache.shape[-1])
        cache[one.tokens - one.slots :] = cache.gather(0, index)
    return Origin(kept=kept)


COMPRESS: Final[Mapping[str, Compress]] = {"kvmerger": merge, "snapkv": evict, "streaming": stream}


def compress(
    keys: Tensor, values: Tensor, query: Tensor | None, scale: float, settings: Settings, one: Compression
) -> Origin:
    """Compress a region in place: slot j of a head is written to the region's token `tokens - slots + j`.

    keys, values: `[tokens, heads, dim]` from the region's beginning to the last token computed. query: the
    last `one.window` queries, `[window, query_heads, dim]`; None for a method that asks for none.
    """
    scores = None
    if one.window:
        assert query is not None
        assert len(query) == one.window
        scores = ops.window_scores(query, keys, scale)
    return COMPRESS[settings.method](keys[: one.tokens], values[: one.tokens], scores, settings, one)
