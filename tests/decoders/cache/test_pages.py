"""Keys and values are read where vLLM's own writer puts them, for every instruction set of this CPU."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl, _get_attn_isa

from decoders.cache import pages
from kernels import ops

BLOCKS, HEADS = 7, 3


def attention(dtype: torch.dtype, size: int, dim: int) -> tuple[Any, Any]:
    """A layer and its implementation, as far as reading and writing the cache ask for them."""
    layer = SimpleNamespace(
        isa=_get_attn_isa(dtype, size, dim, "auto"), _k_scale_float=1.0, _v_scale_float=1.0
    )
    impl = object.__new__(CPUAttentionBackendImpl)
    impl.attn_type, impl.kv_cache_dtype = AttentionType.DECODER, "auto"
    return layer, impl


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("size", "dim"), [(32, 32), (64, 64), (128, 80), (32, 128)])
def test_what_is_written_is_read(dtype: torch.dtype, size: int, dim: int) -> None:
    layer, impl = attention(dtype, size, dim)
    cache = torch.zeros(BLOCKS, HEADS, size, 2 * dim, dtype=dtype)
    generator = torch.Generator().manual_seed(dim)
    blocks = torch.tensor([4, 1, 6], dtype=torch.int32)
    count = 2 * size + 9
    keys, values = (torch.randn(count, HEADS, dim, generator=generator).to(dtype) for _ in range(2))
    pages.write(layer, impl, cache, blocks, 5, keys, values)
    for got, wanted in zip(pages.read(layer, impl, cache, blocks), (keys, values), strict=True):
        assert got.shape == (3 * size, HEADS, dim)
        assert torch.equal(got[5 : 5 + count], wanted)
        assert not got[:5].any()
        assert not got[5 + count :].any()
    untouched = [block for block in range(BLOCKS) if block not in blocks.tolist()]
    assert not cache[untouched].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_over_slots_sees_the_same_keys_and_values(dtype: torch.dtype) -> None:
    layer, impl = attention(dtype, 32, 64)
    cache = torch.zeros(BLOCKS, HEADS, 32, 128, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    blocks = torch.tensor([3, 5, 0], dtype=torch.int32)
    keys, values = (torch.randn(80, HEADS, 64, generator=generator).to(dtype) for _ in range(2))
    query = torch.randn(2, 2 * HEADS, 64, generator=generator).to(dtype)
    mass = torch.randint(1, 9, (HEADS, 40), generator=generator).float()
    pages.write(layer, impl, cache, blocks, 0, keys, values)
    seen_keys, seen_values, table = pages.views(layer, impl, cache, blocks)
    got = ops.slot_attention(query, seen_keys, seen_values, mass, 0.125, block_table=table, length=80)
    wanted = ops.slot_attention(query, keys, values, mass, 0.125)
    assert torch.allclose(got.float(), wanted.float(), atol=1e-6 if dtype == torch.float32 else 2e-2)
