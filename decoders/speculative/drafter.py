"""vLLM's draft model, which computes what it missed before it drafts again."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.forward_context import set_forward_context
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.spec_decode.draft_model import DraftModelProposer

from decoders.speculative.draft_cache import DraftCache, Ints


class CatchingUp(DraftModelProposer):
    """A draft model that may be left out of steps; its KV cache is vLLM's.

    Args:
        vllm_config: of the engine.
        runner: the model runner, whose batch the drafts are for.
    """

    def __init__(self, vllm_config: Any, runner: Any) -> None:
        super().__init__(vllm_config, runner.device, runner)
        if self.uses_mrope or self.supports_mm_inputs:
            raise ValueError("draft models are for models of text only")
        self.runner = runner
        self.cache: DraftCache | None = None
        self.starts: Ints = np.zeros(0, np.int64)  # of the rows of this step: position of its first token
        self.ends: Ints = np.zeros(0, np.int64)  # and behind its last

    def begin_step(self, scheduled: dict[str, int]) -> None:
        """Note what the model computes in this step: tokens by request id."""
        batch = self.runner.input_batch
        self.starts = batch.num_computed_tokens_cpu[: batch.num_reqs].astype(np.int64)
        self.ends = self.starts + [scheduled[name] for name in batch.req_ids]
        if self.cache is None:
            self.cache = DraftCache(self.block_size)
        self.cache.model_wrote(self._tables(), self.starts, self.ends)

    def propose(self, *args: Any, **options: Any) -> Any:
        self.catch_up(options["common_attn_metadata"])
        return super().propose(*args, **options)

    def catch_up(self, metadata: Any) -> None:
        """Compute the tokens before this step that the draft model has not seen, in pieces that fit."""
        assert self.cache is not None
        tables = self._tables()
        begins = self.cache.computed(tables, self.starts)
        while len(rows := np.nonzero(begins < self.starts)[0]):
            lengths = self.starts[rows] - begins[rows]
            room = self.max_num_tokens - np.concatenate([[0], np.cumsum(lengths)[:-1]])
            rows, lengths = rows[room > 0], np.minimum(lengths, room)[room > 0]
            self._compute(metadata, tables, rows, begins[rows], begins[rows] + lengths)
            begins[rows] += lengths
        self.cache.draft_wrote(tables, self.starts, self.ends)

    def _tables(self) -> Ints:
        batch = self.runner.input_batch
        return batch.block_table[self.kv_cache_gid].get_numpy_array()[: batch.num_reqs]

    def _compute(self, metadata: Any, tables: Ints, rows: Ints, begins: Ints, ends: Ints) -> None:
        """Run the draft model over tokens from `begins` up to `ends` of these rows, for its KV cache only."""
        assert self.cache is not None
        lengths = ends - begins
        owners: Ints = np.repeat(rows, lengths)
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.arange(bounds[-1]) + np.repeat(begins - bounds[:-1], lengths)
        slots = tables[owners, positions // self.block_size].astype(np.int64) * self.block_size
        slots += positions % self.block_size
        last = torch.from_numpy(ends.astype(np.int32))
        bounds_cpu = torch.from_numpy(bounds.astype(np.int32))
        self._forward(
            CommonAttentionMetadata(
                query_start_loc=bounds_cpu.to(self.device),
                query_start_loc_cpu=bounds_cpu,
                seq_lens=last.to(self.device),
                seq_lens_cpu_upper_bound=last,
                num_reqs=len(rows),
                num_actual_tokens=len(positions),
                max_query_len=int(lengths.max()),
                max_seq_len=int(ends.max()),
                block_table_tensor=metadata.block_table_tensor[torch.from_numpy(rows).to(self.device)],
                slot_mapping=torch.from_numpy(slots).to(self.device),
                causal=True,
            ),
            torch.from_numpy(self.runner.input_batch.token_ids_cpu[owners, positions]),
            torch.from_numpy(positions),
        )
        self.cache.draft_wrote(tables[rows], begins, ends)

    def _forward(self, metadata: Any, tokens: Tensor, positions: Tensor, step: int = 0) -> Tensor:
        """Hidden states `[tokens, hidden]` of the draft model; its keys and values go into their slots."""
        count = len(tokens)
        self.input_ids[:count].copy_(tokens)
        self.positions[:count].copy_(positions)
        return self._run(metadata, count, step)

    def _run(self, metadata: Any, count: int, step: int = 0) -> Tensor:
        """The same over the tokens and positions that stand in vLLM's buffers already."""
        _, layers = self.build_per_group_and_layer_attn_metadata(metadata, draft_index=step)
        graph, padded, across = self._determine_batch_execution_and_padding(count)
        with set_forward_context(
            layers,
            self.vllm_config,
            num_tokens=padded,
            num_tokens_across_dp=across,
            cudagraph_runtime_mode=graph,
            slot_mapping=self._get_slot_mapping(padded, metadata.slot_mapping),
        ):
            hidden = self.model(
                input_ids=self.input_ids[:padded], positions=self._get_positions(padded), inputs_embeds=None
            )
        return hidden[:count]
