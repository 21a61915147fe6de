"""Drafts as long as their entropy promises acceptance: the drafter of method `adaptive_draft`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.attention.backend import CommonAttentionMetadata

from decoders.speculative.bound import StopRule
from decoders.speculative.drafter import CatchingUp
from decoders.speculative.settings import AdaptiveDraft

GREEDY = 1e-5  # a temperature below this is vLLM's greedy


@dataclass
class Rows:
    """The rows that still draft: their indices in the batch, and where their next token goes."""

    index: Tensor  # [rows]
    positions: Tensor  # [rows], of the last token the draft model saw
    seq_lens: Tensor  # [rows], tokens up to and with it
    tables: Tensor  # [rows, blocks]

    def kept(self, which: Tensor) -> "Rows":
        return Rows(self.index[which], self.positions[which], self.seq_lens[which], self.tables[which])


class AdaptiveDrafter(CatchingUp):
    """A draft model over the batch; each row's draft ends by `StopRule`, and the row runs no more."""

    def __init__(self, settings: AdaptiveDraft, vllm_config: Any, runner: Any) -> None:
        super().__init__(vllm_config, runner)
        if self.use_heterogeneous_vocab or self.parallel_drafting:
            raise ValueError("adaptive_draft takes neither use_heterogeneous_vocab nor parallel_drafting")
        self.rule = StopRule(
            settings.gamma, settings.stop, settings.target_acceptance if settings.adapt else None
        )
        self.samples = settings.draft_sample_method == "probabilistic"

    def propose(
        self,
        num_speculative_tokens: int,
        target_token_ids: Tensor,
        target_positions: Tensor,
        target_hidden_states: Tensor,
        next_token_ids: Tensor,
        token_indices_to_sample: Tensor | None,
        common_attn_metadata: Any,
        sampling_metadata: Any,
        mm_embed_inputs: Any = None,
        num_rejected_tokens_gpu: Tensor | None = None,
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Drafts of all rows, empty where none is made; vLLM calls it with the tokens of the step."""
        self._last_draft_probs = None
        self.catch_up(common_attn_metadata)
        count, last, metadata = self.set_inputs_first_pass(
            target_token_ids=target_token_ids,
            next_token_ids=next_token_ids,
            target_positions=target_positions,
            target_hidden_states=target_hidden_states,
            token_indices_to_sample=token_indices_to_sample,
            cad=common_attn_metadata,
            num_rejected_tokens_gpu=num_rejected_tokens_gpu,
        )
        hidden = self._run(metadata, count)[last]
        rejected = 0 if num_rejected_tokens_gpu is None else num_rejected_tokens_gpu
        # A prompt that is not complete yet is not drafted for.
        unfinished = self.runner.discard_request_mask.np[: self.runner.input_batch.num_reqs]
        drafting = torch.from_numpy(np.nonzero(~unfinished)[0]).to(self.device)
        rows = Rows(
            torch.arange(len(last), device=self.device),
            self.positions[last],
            metadata.seq_lens - rejected,
            metadata.block_table_tensor,
        ).kept(drafting)
        most, longest = num_speculative_tokens, metadata.max_seq_len
        return self._draft(rows, hidden[drafting], len(last), most, sampling_metadata, longest)

    def _draft(
        self, rows: Rows, hidden: Tensor, batch: int, most: int, sampling: Any, longest: int
    ) -> list[list[int]]:
        drafts: list[list[int]] = [[] for _ in range(batch)]
        chosen: list[tuple[Tensor, Tensor]] = []  # rows and their distributions, by position
        for position in range(most):
            if not len(rows.index):
                break
            logits = self._tempered(self.model.compute_logits(hidden), rows.index, sampling)
            on = self.rule.goes_on(logits).nonzero().flatten()
            if not len(on):
                break
            rows, logits = rows.kept(on), logits[on]
            tokens, probabilities = self._choose(logits, rows.index, sampling)
            if probabilities is not None:
                chosen.append((rows.index, probabilities))
            for row, token in zip(rows.index.tolist(), tokens.tolist(), strict=True):
                drafts[row].append(token)
            if position + 1 < most:
                hidden = self._step(rows, tokens, position + 1, longest)
        if chosen:
            vocabulary = chosen[0][1].shape[-1]
            probabilities = chosen[0][1].new_zeros(batch, len(chosen), vocabulary)
            for position, (index, distribution) in enumerate(chosen):
                probabilities[index, position] = distribution
            self._last_draft_probs = probabilities
        return drafts

    def _tempered(self, logits: Tensor, index: Tensor, sampling: Any) -> Tensor:
        """Logits `[rows, vocab]` at the temperature the row samples at; greedy rows' as they are."""
        logits = logits.float()
        if sampling.all_greedy:
            return logits
        temperature = sampling.temperature[index]
        return logits / torch.where(temperature < GREEDY, 1.0, temperature)[:, None]

    def _choose(self, logits: Tensor, index: Tensor, sampling: Any) -> tuple[Tensor, Tensor | None]:
        """Tokens `[rows]`, and the distribution they were drawn from if they were drawn."""
        best = logits.argmax(dim=-1)
        if not self.samples or sampling.all_greedy:
            return best, None
        probabilities = logits.softmax(dim=-1)
        drawn = (probabilities / torch.empty_like(probabilities).exponential_()).argmax(dim=-1)
        return torch.where(sampling.temperature[index] < GREEDY, best, drawn), probabilities

    def _step(self, rows: Rows, tokens: Tensor, step: int, longest: int) -> Tensor:
        """Hidden states `[rows, hidden]` after one more token in each row; `longest` before step 1."""
        count = len(tokens)
        rows.positions = rows.positions + 1
        rows.seq_lens = rows.seq_lens + 1
        blocks = rows.tables.gather(1, (rows.positions // self.block_size)[:, None])[:, 0].long()
        bounds = torch.arange(count + 1, dtype=torch.int32)
        longest = longest + step
        return self._forward(
            CommonAttentionMetadata(
                query_start_loc=bounds.to(self.device),
                query_start_loc_cpu=bounds,
                seq_lens=rows.seq_lens,
                seq_lens_cpu_upper_bound=torch.full((count,), longest, dtype=torch.int32),
                num_reqs=count,
                num_actual_tokens=count,
                max_query_len=1,
                max_seq_len=longest,
                block_table_tensor=rows.tables,
                slot_mapping=blocks * self.block_size + rows.positions % self.block_size,
                causal=True,
            ),
            tokens,
            rows.positions,
            step,
        )
