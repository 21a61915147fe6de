"""Registers the operators with torch: schemas, fakes, and the reference where no native library is."""

import logging
from functools import cache

import torch
from torch import Tensor

from kernels import native, reference
from kernels.schemas import NAMESPACE, SCHEMAS

log = logging.getLogger(__name__)
_libraries: list[torch.library.Library] = []


@cache
def register() -> None:
    """Make `torch.ops.decant.*` usable; loads the native libraries."""
    library = torch.library.Library(NAMESPACE, "DEF")
    _libraries.append(library)  # registrations live as long as this does
    for name, schema in SCHEMAS.items():
        library.define(name + schema)
        torch.library.register_fake(f"{NAMESPACE}::{name}", FAKES[name], lib=library)
    for device, status in native.status().items():
        lacking = [name for name in SCHEMAS if not (status.native and _implemented(name, device))]
        for name in lacking:
            library.impl(name, getattr(reference, name), device)
        if status.native and lacking:
            log.warning(
                "the %s library was built from older sources: %s run as plain torch. 'python -m "
                "kernels.build' builds it anew",
                device,
                ", ".join(lacking),
            )


def _implemented(name: str, device: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", device))


def _entropy(logits: Tensor, rows: Tensor | None) -> Tensor:
    return logits.new_empty(len(logits) if rows is None else len(rows), dtype=torch.float32)


def _fuse_logits_(
    base: Tensor,
    guides: list[Tensor],
    weights: Tensor,
    normalise: bool,
    alpha: Tensor | None,
    gate: Tensor | None,
    rows: Tensor | None,
) -> Tensor:
    return weights.new_empty(weights.shape[1], dtype=torch.bool)


def _dynamic_fusion(
    large: Tensor, experts: list[Tensor], small: Tensor, grid: Tensor, gate: Tensor | None
) -> tuple[Tensor, Tensor]:
    return grid.new_empty(len(experts), len(large)), large.new_empty(large.shape)


def _dynamic_fusion_(
    large: Tensor,
    experts: list[Tensor],
    small: Tensor,
    grid: Tensor,
    gate: Tensor | None,
    rows: Tensor | None,
) -> Tensor:
    return grid.new_empty(len(experts), len(large) if rows is None else len(rows))


def _pikl(
    generator: Tensor,
    discriminator: Tensor,
    lengths: Tensor,
    eta_g: float,
    lam_g: float,
    eta_d: float,
    lam_d: float,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    return generator.new_empty(generator.shape), discriminator.new_empty(discriminator.shape)


def _adjacent_similarity(keys: Tensor, block_table: Tensor | None, length: int) -> Tensor:
    return keys.new_empty(keys.shape[-2], length - 1, dtype=torch.float32)


def _window_scores(
    query: Tensor, keys: Tensor, block_table: Tensor | None, length: int, scale: float
) -> Tensor:
    return keys.new_empty(keys.shape[-2], length, dtype=torch.float32)


def _merge_segments(similarity: Tensor, scores: Tensor, slots: int, sinks: int, heavy: int) -> Tensor:
    return similarity.new_empty(similarity.shape[0], similarity.shape[1] + 1, dtype=torch.int32)


def _merge_kv_(
    keys: Tensor,
    values: Tensor,
    scores: Tensor,
    segments: Tensor,
    block_table: Tensor | None,
    slots: int,
    sigma: float | None,
) -> Tensor:
    return segments.new_empty(segments.shape[0], slots)


def _slot_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mass: Tensor,
    block_table: Tensor | None,
    length: int,
    scale: float,
) -> Tensor:
    return query.new_empty(query.shape)


FAKES = {
    "entropy": _entropy,
    "fuse_logits_": _fuse_logits_,
    "dynamic_fusion": _dynamic_fusion,
    "dynamic_fusion_": _dynamic_fusion_,
    "pikl": _pikl,
    "adjacent_similarity": _adjacent_similarity,
    "window_scores": _window_scores,
    "merge_segments": _merge_segments,
    "merge_kv_": _merge_kv_,
    "slot_attention": _slot_attention,
}
