"""The attention's half: rows read their compressed layout, and compress when a step completes a region.

The classes are mixed in before those of the platform's own backend, layer by layer, once a model is loaded.
"""

from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig, get_layers_from_vllm_config
from vllm.model_executor.layers.attention import Attention
from vllm.utils.torch_utils import is_quantized_kv_cache
from vllm.v1.attention.backend import AttentionType
from vllm.v1.kv_cache_interface import FullAttentionSpec, replace_as

from decoders.cache import pages
from decoders.cache.compressing import compress
from decoders.cache.plan import Compression
from decoders.cache.rows import Kept, Row, Rows, shared
from decoders.cache.scheduler import CompressibleSpec
from kernels import ops

WORK = "decant_cache"  # the attribute of a backend's metadata that holds a `Step`


@dataclass(frozen=True)
class Job:
    """A compression that a step does.

    blocks: kernel blocks from the region's beginning to the last token computed, in order.
    """

    row: Row
    compression: Compression
    blocks: Tensor


@dataclass(frozen=True)
class Weighed:
    """A row that attends to slots of different mass. blocks: kernel blocks of its layout, in order."""

    row: Row
    blocks: Tensor
    length: int


@dataclass(frozen=True)
class Step:
    """What the layers of one builder do in a step. rows: whose queries will score keys, now or later."""

    rows: list[Row]
    jobs: list[Job]
    weighed: list[Weighed]


class CompressedBuilder:
    """Mixed in before a metadata builder: rows that are compressed see a block table without free blocks."""

    supports_update_block_table = False  # it would bypass build()

    def __init__(
        self, spec: Any, layer_names: list[str], config: VllmConfig, device: Any, *args: Any, **kwargs: Any
    ):
        super().__init__(spec, layer_names, config, device, *args, **kwargs)  # type: ignore[call-arg]
        self._rows = shared(config)
        self._kernel_block = int(spec.block_size)  # it may divide the scheduler's

    def build(self, common_prefix_len: int, common: Any, *args: Any, **kwargs: Any) -> Any:
        rows = list(self._rows.of_step(common.query_start_loc_cpu, common.seq_lens_cpu_upper_bound))
        jobs = [self._job(row, one, common) for row in rows if (one := row.due) is not None]
        done = [(row, one.skip) for row in rows if (one := row.done) is not None]
        view, weighed = self._view(done, common) if done else (common, [])
        metadata = super().build(common_prefix_len, view, *args, **kwargs)  # type: ignore[misc]
        setattr(metadata, WORK, Step(rows, jobs, weighed))
        return metadata

    def _job(self, row: Row, one: Compression, common: Any) -> Job:
        size = self._kernel_block
        blocks = common.block_table_tensor[row.index, one.start // size : -(-one.at // size)]
        return Job(row, one, blocks.clone())

    def _view(self, done: list[tuple[Row, int]], common: Any) -> tuple[Any, list[Weighed]]:
        """What attention reads, without these rows' free blocks, and the rows it need not read."""
        table, lengths = common.block_table_tensor.clone(), common.seq_lens.clone()
        bound = common.seq_lens_cpu_upper_bound.clone()
        weighed: list[Weighed] = []
        for row, skip in done:
            tokens = skip * self._rows.block_size
            blocks = tokens // self._kernel_block
            own = common.block_table_tensor[row.index, blocks:]
            table[row.index, : len(own)] = own
            length = row.computed + row.length - tokens
            if row.request.settings.mass:
                used = -(-length // self._kernel_block)
                weighed.append(Weighed(row, own[:used].clone(), length))
                length = row.length  # what vLLM's attention says of it is replaced
            lengths[row.index] = bound[row.index] = length
        view = common.replace(
            block_table_tensor=table,
            seq_lens=lengths,
            seq_lens_cpu_upper_bound=bound,
            max_seq_len=int(bound.max()),
            _num_computed_tokens_cache=None,
        )
        return view, weighed


class CompressedImpl:
    """Mixed in before an attention implementation: compresses once a layer's attention is done."""

    scale: float
    decant_layer: str
    decant_rows: Rows

    def forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: Any,
        output: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        out: Tensor = super().forward(  # type: ignore[misc]
            layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs
        )
        step: Step | None = getattr(attn_metadata, WORK, None)
        if step is not None:
            for one in step.weighed:
                self._attend(layer, query, kv_cache, output, one)
            for row in step.rows:
                if (wanted := row.wanted_queries()) is not None:
                    self._kept(row).keep(query[wanted], row.computed + wanted.start - row.first)
            for job in step.jobs:
                self._compress(layer, kv_cache, job)
        return out

    def _kept(self, row: Row) -> Kept:
        return row.request.layers.setdefault(self.decant_layer, Kept())

    def _attend(self, layer: Any, query: Tensor, kv_cache: Tensor, output: Tensor, one: Weighed) -> None:
        """Replace what attention has said of a row, taking slots for as many tokens as they stand for."""
        mass = self._kept(one.row).mass
        assert mass is not None
        part = slice(one.row.first, one.row.first + one.row.length)
        keys, values, table = pages.views(layer, self, kv_cache, one.blocks)
        said = ops.slot_attention(
            query[part], keys, values, mass, self.scale, block_table=table, length=one.length
        )
        output[part] = said.view_as(output[part])

    def _compress(self, layer: Any, kv_cache: Tensor, job: Job) -> None:
        began = perf_counter()
        one, settings, kept = job.compression, job.row.request.settings, self._kept(job.row)
        keys, values = (part[: one.at - one.start] for part in pages.read(layer, self, kv_cache, job.blocks))
        query = kept.last(one.window) if one.window else None
        origin = compress(keys, values, query, self.scale, settings, one)
        first = one.tokens - one.slots
        pages.write(
            layer,
            self,
            kv_cache,
            job.blocks,
            first,
            keys[first : one.tokens],
            values[first : one.tokens],
        )
        if settings.mass:
            kept.mass = origin.mass(self._mass_before(kept, one, keys), one.slots)
        request = job.row.request
        self.decant_rows.measured.add(
            id(request), one.at, request.report, one.freed(request.plan.block_size), perf_counter() - began
        )

    def _mass_before(self, kept: Kept, one: Compression, keys: Tensor) -> Tensor:
        mass = torch.ones(keys.shape[1], one.tokens, device=keys.device)
        if one.held:
            assert kept.mass is not None
            mass[:, : one.held] = kept.mass
        return mass


def obstacle(layer: Any) -> str | None:
    """Why a layer's keys and values cannot be compressed, in words; None if they can."""
    impl = layer.impl
    if layer.attn_type != AttentionType.DECODER:
        return "it has attention of another kind than a decoder's own"
    if layer.sliding_window is not None:
        return "it has a sliding window"
    if is_quantized_kv_cache(layer.kv_cache_dtype):
        return "its keys and values are quantised (args.kv_cache_dtype)"
    if layer.kv_sharing_target_layer_name is not None:
        return "it shares another layer's keys and values"
    if getattr(impl, "alibi_slopes", None) is not None:
        return "it knows distances by ALiBi"
    if getattr(impl, "logits_soft_cap", None):
        return "it caps attention logits"
    if getattr(impl, "sinks", None) is not None:
        return "it has learnt attention sinks"
    if layer.attn_backend.is_mla() or not pages.known(impl):
        return f"keys and values lie in a layout of {layer.attn_backend.get_name()} that is not known"
    return None


def install(config: VllmConfig, rows: Rows) -> None:
    """Let every attention layer of a loaded model compress. Errors: ValueError for a model that cannot."""
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

    layers: dict[str, Any] = get_layers_from_vllm_config(config, AttentionLayerBase)
    for name, layer in layers.items():
        reason = obstacle(layer) if isinstance(layer, Attention) else "it is not plain attention"
        if reason is not None:
            raise ValueError(f"cache_methods cannot act on layer {name}: {reason}")
    for name, layer in layers.items():
        layer.attn_backend = _backend(layer.attn_backend)
        compressed = object.__new__(layer.attn_backend.get_impl_cls())
        compressed.__dict__.update(vars(layer.impl), decant_layer=name, decant_rows=rows)
        layer.impl = compressed


@cache
def _backend(backend: Any) -> Any:
    """The platform's backend with compression."""
    impl = type(f"Compressed{backend.get_impl_cls().__name__}", (CompressedImpl, backend.get_impl_cls()), {})
    builder_base = backend.get_builder_cls()
    builder = type(f"Compressed{builder_base.__name__}", (CompressedBuilder, builder_base), {})

    def customize_spec(cls: Any, spec: Any) -> Any:
        spec = super(compressed, cls).customize_spec(spec)
        return replace_as(spec, CompressibleSpec) if type(spec) is FullAttentionSpec else spec

    compressed: Any = type(
        f"Compressed{backend.__name__}",
        (backend,),
        {
            "get_impl_cls": staticmethod(lambda: impl),
            "get_builder_cls": staticmethod(lambda: builder),
            "customize_spec": classmethod(customize_spec),
        },
    )
    return compressed
