"""Reading and writing one request's keys and values where the platform's attention keeps them."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def known(impl: Any) -> bool:
    """Whether the layout of an attention implementation's cache is known here."""
    return hasattr(impl, "do_kv_cache_update") and (_on_cpu(impl) or _splits(impl))


def read(layer: Any, impl: Any, kv_cache: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of these blocks, in order: copies, each `[blocks * block_size, heads, dim]`."""
    cached = kv_cache[blocks.long()]
    if not _on_cpu(impl):
        keys, values = cached.transpose(1, 2).split(cached.shape[-1] // 2, dim=-1)
        return keys.flatten(0, 1).contiguous(), values.flatten(0, 1).contiguous()
    count, heads, size, width = cached.shape
    dim = width // 2
    parts = cached.view(count, heads, 2, size * dim).unbind(2)
    orders = _cpu_order(size, dim, kv_cache.dtype, layer.isa)
    keys, values = (
        (
            part.view(count, heads, dim, size).transpose(2, 3)
            if order == "dim first"
            else part.view(count, heads, size, dim)
        )
        if isinstance(order, str)
        else part[:, :, order]
        for part, order in zip(parts, orders, strict=True)
    )
    shape = (count * size, heads, dim)
    return keys.transpose(1, 2).reshape(shape), values.transpose(1, 2).reshape(shape)


def views(layer: Any, impl: Any, kv_cache: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and block table for `kernels.ops.slot_attention`, copied only where they must be."""
    size, dim = kv_cache.shape[2], kv_cache.shape[3] // 2
    if not _on_cpu(impl):
        keys, values = kv_cache.transpose(1, 2).split(dim, dim=-1)
        return keys, values, blocks
    order = _cpu_order(size, dim, kv_cache.dtype, layer.isa)
    if order != ("dim first", "token first"):
        return *read(layer, impl, kv_cache, blocks), None
    parts = kv_cache.view(*kv_cache.shape[:2], 2, size * dim)
    keys = parts[:, :, 0].unflatten(-1, (dim, size)).permute(0, 3, 1, 2)
    return keys, parts[:, :, 1].unflatten(-1, (size, dim)).transpose(1, 2), blocks


def write(
    layer: Any, impl: Any, kv_cache: Tensor, blocks: Tensor, first: int, keys: Tensor, values: Tensor
) -> None:
    """Write `[tokens, heads, dim]` to the tokens of these blocks from `first` on."""
    size = kv_cache.shape[2]
    token = torch.arange(first, first + len(keys), device=blocks.device)
    slots = blocks.long()[token // size] * size + token % size
    impl.do_kv_cache_update(layer, keys, values, kv_cache, slots)


def _on_cpu(impl: Any) -> bool:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

    return isinstance(impl, CPUAttentionBackendImpl)


def _splits(impl: Any) -> bool:
    """Whether the cache is `[blocks, heads, block_size, 2 * dim]`, keys before values."""
    return type(impl).__module__.rpartition(".")[2] in ("flash_attn", "triton_attn")


@lru_cache
def _cpu_order(block_size: int, dim: int, dtype: torch.dtype, isa: str) -> tuple[str | Tensor, str | Tensor]:
    """How the CPU's kernels keep one head's page of keys, and of values, for this instruction set.

    "dim first" is `[dim, block_size]`, "token first" `[block_size, dim]`, and a tensor `[block_size, dim]`
    says where each element lies. The kernels do not tell, so it is found out from what their writer writes.
    """
    from vllm import _custom_ops

    elements = block_size * dim
    number = torch.arange(elements)
    found = [torch.zeros(elements, dtype=torch.long) for _ in range(2)]
    for shift in range(0, elements.bit_length(), 6):  # six bits at a time are exact in any dtype
        digits = ((number >> shift) & 63).to(dtype).view(block_size, 1, dim)
        page = torch.zeros(1, 1, 2 * block_size, dim, dtype=dtype)
        keys, values = page.chunk(2, dim=2)
        _custom_ops.cpu_attn_reshape_and_cache(digits, digits, keys, values, torch.arange(block_size), isa)
        for flat, written in zip(found, (keys, values), strict=True):
            flat += written.flatten().long() << shift
    orders: list[str | Tensor] = []
    for flat in found:
        place = torch.empty_like(flat).scatter_(0, flat, number).view(block_size, dim)
        if torch.equal(place, number.view(block_size, dim)):
            orders.append("token first")
        elif torch.equal(place, number.view(dim, block_size).t()):
            orders.append("dim first")
        else:
            orders.append(place)
    return orders[0], orders[1]
