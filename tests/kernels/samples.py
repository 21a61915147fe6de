"""Representative arguments of every low-level operator, `torch.ops.decant.*`."""

from typing import Any

import torch

from kernels import reference
from tests.kernels import cases

Arguments = tuple[Any, ...]


def samples(rows: int, vocab: int, tokens: int) -> dict[str, list[Arguments]]:
    """By operator; a call may change its arguments, so ask anew for each."""
    base, small = cases.logits(rows, vocab, seed=1), cases.logits(rows, vocab, seed=2)
    guides = [cases.logits(rows, vocab, seed=i, dtype=torch.bfloat16) for i in (3, 4)]
    experts = [cases.logits(rows, vocab, seed=i) for i in (5, 6)]
    some = torch.arange(rows - 1, -1, -2)
    alpha, gate = torch.full((len(some),), 0.1), torch.linspace(0, 9, len(some))
    weights, grid = cases.randn(2, rows, seed=7), torch.linspace(0, 2, 21)
    lengths = torch.arange(rows) % 5 + 1
    games = cases.randn(rows, 2, 5, seed=8), cases.randn(rows, 5, 2, seed=9)
    heads, slots = 2, max(5, tokens // 2)
    keys, values = (cases.randn(tokens, heads, 16, seed=i, dtype=torch.bfloat16) for i in (10, 11))
    key_pages, value_pages = (cases.cache(one, "head first", seed=12) for one in (keys, values))
    query = cases.randn(min(tokens, 8), 3 * heads, 16, seed=13, dtype=torch.bfloat16)
    scores = cases.randn(heads, tokens, seed=14)
    similarity = reference.adjacent_similarity(keys, None, tokens)
    segments = reference.merge_segments(similarity, scores, slots, 4, 0)
    table = key_pages.table
    return {
        "entropy": [(base, None), (guides[0], some)],
        "fuse_logits_": [
            (base.clone(), guides, weights, True, None, None, None),
            (base.clone(), guides[:1], weights[:1, : len(some)].contiguous(), False, alpha, gate, some),
        ],
        "dynamic_fusion": [(base, experts, small, grid, None), (base, experts[:1], small, grid, weights[0])],
        "dynamic_fusion_": [
            (base.clone(), experts, small, grid, None, None),
            (base.clone(), experts[:1], small, grid, gate, some),
        ],
        "pikl": [
            (*games, lengths, 0.1, 0.1, 0.1, 0.1, 50),
            (games[0].double(), games[1].double(), lengths, 0.2, 0.1, 0.3, 0.0, 3),
        ],
        "adjacent_similarity": [(keys, None, tokens), (key_pages.memory, table, tokens)],
        "window_scores": [(query, keys, None, tokens, 0.25), (query, key_pages.memory, table, tokens, 0.25)],
        "merge_segments": [(similarity, scores, slots, 4, 0), (similarity, scores, slots, 0, 2)],
        "merge_kv_": [
            (keys.clone(), values.clone(), scores, segments, None, slots, None),
            (key_pages.memory, value_pages.memory, scores, segments, table, slots, 5.0),
        ],
        "slot_attention": [
            (query, keys, values, scores[:, :2].exp(), None, tokens, 0.25),
            (query, key_pages.memory, value_pages.memory, scores.exp(), table, tokens, 0.25),
        ],
    }
