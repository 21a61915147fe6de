"""What is measured: cases with their buffers, the ways of doing it, and the bytes they cannot but move."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels import checks, ops, reference
from kernels.bench import plain
from kernels.bench.timing import Way

VOCABULARIES = (32_000, 151_936, 262_144)
GRID = list(checks.GRID)


@dataclass(frozen=True)
class Case:
    """ways: by name; `native` is the operator, `reference` and `plain` what it is compared with, `copy` a
    copy of `copied` bytes. moved: bytes read and written once. target: what the project asks for here, if
    anything."""

    operator: str
    size: str
    ways: dict[str, Way]
    moved: int
    copied: int = 0
    target: str = ""


@dataclass(frozen=True)
class Buffers:
    """Sets of equal tensors, so that a GPU's second-level cache holds none of the next call's."""

    device: str
    sets: int

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> list[Tensor]:
        seeded = torch.Generator().manual_seed(sum(shape))
        first = (torch.randn(*shape, generator=seeded) * scale).to(self.device, dtype)
        return [first, *(first.clone() for _ in range(self.sets - 1))]

    def copying(self, like: list[Tensor]) -> Way:
        into = [torch.empty_like(one) for one in like]
        return Way(lambda i: into[i].copy_(like[i]))


def logits_cases(buffers: Buffers, rows: int, vocab: int, dtype: torch.dtype) -> Iterator[Case]:
    size = f"[{rows}, {vocab}] {str(dtype).removeprefix('torch.')}"
    base, guide, small = (buffers.normal(rows, vocab, dtype=dtype, scale=scale) for scale in (3.0, 2.0, 2.5))
    kept = [one.clone() for one in base]
    weights = torch.full((1, rows), 0.7, device=buffers.device)
    alpha, gate = torch.full((2, rows), 0.1, device=buffers.device)
    copy, bytes_ = buffers.copying(base), base[0].numel() * base[0].element_size()

    def restore(i: int) -> Tensor:
        return base[i].copy_(kept[i])

    def case(operator: str, ways: dict[str, Way], arrays: int, target: str = "") -> Case:
        return Case(operator, size, {**ways, "copy": copy}, arrays * bytes_, bytes_, target)

    main = "8x plain, 40% of copy bandwidth on a CPU" if (rows, vocab) == (64, 151_936) else ""
    yield case(
        "entropy",
        {
            "native": Way(lambda i: ops.entropy(base[i])),
            "reference": Way(lambda i: reference.entropy(base[i], None)),
            "plain": Way(lambda i: plain.entropy(base[i])),
        },
        1,
        main,
    )
    for name, normalise, mask, other in (
        ("fuse_logits_ (sum)", False, None, plain.weighted_sum),
        ("fuse_logits_ (GenARM)", True, None, plain.genarm),
        (
            "fuse_logits_ (mask, gate)",
            True,
            (alpha, gate),
            plain.contrastive,
        ),
    ):
        yield case(
            name, _fusing(base, guide, weights, normalise, mask, other, restore), 3, main if normalise else ""
        )
    yield case(
        "dynamic_fusion_",
        {
            "native": Way(lambda i: ops.dynamic_fusion_(base[i], guide[i], small[i]), restore),
            "plain": Way(lambda i: plain.dynamic_fusion(base[i], guide[i], small[i], GRID), restore),
        },
        4,
    )


def _fusing(
    base: list[Tensor],
    guide: list[Tensor],
    weights: Tensor,
    normalise: bool,
    mask: tuple[Tensor, Tensor] | None,
    other: Callable[..., Tensor],
    restore: Callable[[int], Tensor],
) -> dict[str, Way]:
    alpha, gate = mask or (None, None)
    return {
        "native": Way(
            lambda i: ops.fuse_logits_(base[i], guide[i], weights, normalise, alpha=alpha, gate=gate), restore
        ),
        "reference": Way(
            lambda i: reference.fuse_logits_(base[i], [guide[i]], weights, normalise, alpha, gate, None),
            restore,
        ),
        "plain": Way(lambda i: other(base[i], guide[i], weights[0]), restore),
    }


def game_cases(device: str, games: int, candidates: int, iterations: int) -> Iterator[Case]:
    import numpy

    seeded = torch.Generator().manual_seed(0)
    generator = torch.randn(games, 2, candidates, generator=seeded, dtype=torch.float64) * 2 - 8
    discriminator = torch.randn(games, candidates, 2, generator=seeded, dtype=torch.float64).log_softmax(-1)
    arrays = generator.numpy(), discriminator.numpy()
    for dtype in (torch.float64, torch.float32):
        given = generator.to(device, dtype), discriminator.to(device, dtype)
        yield Case(
            "pikl",
            f"{games} games x {candidates} candidates x {iterations} {str(dtype).removeprefix('torch.')}",
            {
                "native": Way(lambda i, given=given: ops.pikl(*given, iterations=iterations)),  # type: ignore[misc]
                "plain": Way(lambda i: plain.pikl(numpy, *arrays, 0.1, 0.1, iterations)),
            },
            moved=0,
            target="30x vectorised numpy on a CPU" if (games, candidates) == (256, 8) else "",
        )


def cache_cases(buffers: Buffers, tokens: int, heads: int, dim: int, dtype: torch.dtype) -> Iterator[Case]:
    size = f"{tokens} tokens, {heads} heads, dim {dim} {str(dtype).removeprefix('torch.')}"
    keys, values = (buffers.normal(tokens, heads, dim, dtype=dtype) for _ in range(2))
    values = [one.flip(0).contiguous() for one in values]
    query = buffers.normal(32, 4 * heads, dim, dtype=dtype)[0]
    kept = keys[0].clone(), values[0].clone()
    slots, sinks, heavy, scale = tokens // 2, 4, tokens // 10, dim**-0.5
    scores = ops.window_scores(query, keys[0], scale)
    similarity = ops.adjacent_similarity(keys[0])
    segments = ops.merge_segments(similarity, scores, slots, sinks, heavy)
    each, long = keys[0].numel() * keys[0].element_size(), segments.long()

    def restore(i: int) -> None:
        keys[i].copy_(kept[0])
        values[i].copy_(kept[1])

    def select_and_merge(i: int) -> Tensor:
        links = ops.adjacent_similarity(keys[i])
        return ops.merge_kv_(
            keys[i], values[i], scores, ops.merge_segments(links, scores, slots, sinks, heavy), slots
        )

    def plainly(i: int) -> Any:
        plan = plain.merge_segments(keys[i], scores, slots, sinks, heavy)
        return plain.merge_kv(keys[i], values[i], scores, plan, slots)

    def case(name: str, native: Way, other: Way, moved: int, target: str = "") -> Case:
        ways = {"native": native, "plain": other, "copy": buffers.copying(keys)}
        return Case(name, size, ways, moved, each, target)

    def score(i: int) -> Tensor:
        return ops.window_scores(query, keys[i], scale)

    main = "5x plain" if (tokens, heads, dim) == (4096, 8, 128) else ""
    yield case("window_scores", Way(score), Way(lambda i: plain.window_scores(query, keys[i], scale)), each)
    yield case(
        "adjacent_similarity",
        Way(lambda i: ops.adjacent_similarity(keys[i])),
        Way(lambda i: plain.adjacent_similarity(keys[i])),
        each,
    )
    yield case(
        "merge_kv_",
        Way(lambda i: ops.merge_kv_(keys[i], values[i], scores, segments, slots), restore),
        Way(lambda i: plain.merge_kv(keys[i], values[i], scores, long, slots), restore),
        3 * each,
    )
    yield case("select and merge", Way(select_and_merge, restore), Way(plainly, restore), 4 * each, main)
    yield case(
        "score, select and merge",
        Way(lambda i: (score(i), select_and_merge(i)), restore),
        Way(lambda i: (plain.window_scores(query, keys[i], scale), plainly(i)), restore),
        5 * each,
    )
