"""V1 logits processor that watches the entropy of every segment and ends those whose rule says so.

Everything is computed and kept on the device: no step waits for it. A segment ends by sampling a reserved
token, which its request lists among its stop tokens; or, where the scheduler reads marks, with the token
after which the other model takes over, which saves a step.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.layers.utils import apply_penalties
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.ops.bad_words import apply_bad_words

from decoders.sequence.switching.marks import LAST, reads_marks
from decoders.sequence.switching.rule import MAX_WINDOW, Rule
from decoders.sequence.switching.sampler import watch_raw_logits
from decoders.sequence.switching.segment import RING, Segment, Segments
from kernels import ops

CERTAIN = 1e30  # a logit beside which no other has any probability, at every temperature


class EntropySwitch(LogitsProcessor):
    """Entropy-adaptive decoding's half in the engine (arXiv 2502.06833, section 3).

    H_t is the entropy in bits of the model's own distribution at position t: over the whole vocabulary, at
    temperature 1, before masks, biases and penalties. A row leaves where the mean of the last `window` of
    them lies on the other side of the threshold, and at least `dwell` tokens were decoded here.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self.device = device
        self.segments = Segments(max(4096, 8 * vllm_config.scheduler_config.max_num_seqs), device)
        self.rows: dict[int, Segment] = {}
        self.leave: Tensor | None = None
        self.last: Tensor | None = None  # rows whose next token is the other model's
        self.marks = reads_marks(vllm_config.scheduler_config)
        self.span = torch.arange(MAX_WINDOW, device=device)
        watch_raw_logits()

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        Rule.from_wire(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        changed = process_dict_updates(self.rows, batch_update, self._open)
        self.leave = None
        if not self.rows:
            return
        segments = list(self.rows.values())
        if changed:
            rules = [segment.rule for segment in segments]
            self.row = self._column(list(self.rows), torch.long)
            self.slot = self._column([segment.slot for segment in segments], torch.long)
            self.offset = self._column([len(rule.history) for rule in rules], torch.long)
            self.threshold = self._column([rule.threshold for rule in rules], torch.float64)
            self.above = self._column([rule.above for rule in rules], torch.bool)
            self.window = self._column([rule.window for rule in rules], torch.long)
            self.dwell = self._column([rule.dwell for rule in rules], torch.long)
            self.now = self._column([rule.now for rule in rules], torch.long)
            self.stop = self._column([rule.stop for rule in rules], torch.long)
        # The request's own count: a piece of a prompt, or a resumed prompt, just writes its entropy again.
        self.emitted = self._column([len(segment.output) for segment in segments], torch.long)

    def _column(self, values: list[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(self.device, non_blocking=True)

    def _open(self, params: SamplingParams, prompt: list[int] | None, output: list[int]) -> Segment | None:
        rule = Rule.from_wire(params.extra_args)
        if rule is None:
            return None
        running = {segment.rule.key for segment in self.rows.values()}
        return self.segments.open(rule, prompt or [], output, running)

    def observe(self, logits: Tensor) -> None:
        """Take entropies from the model's own logits `[rows, vocab]` and decide which rows leave."""
        if not self.rows:
            return
        entropy = ops.entropy(logits, self.row)
        position = self.offset + self.emitted
        self.segments.ring[self.slot, position % RING] = entropy.double()
        self.leave = self._crossed(position + self.now) & (self.emitted >= self.dwell)
        if self.marks:
            self.last = self._crossed(position + 1) & (self.emitted + 1 >= self.dwell) & (self.now == 0)
        for i, segment in enumerate(self.rows.values()):
            if segment.rule.trace:
                segment.trace[len(segment.output)] = entropy[i]

    def _crossed(self, end: Tensor) -> Tensor:
        """Rows whose mean of the last entropies before position `end` lies beyond the threshold."""
        count = torch.minimum(self.window, end)
        recent = self.segments.ring[self.slot[:, None], (end[:, None] - 1 - self.span) % RING]
        mean = recent.where(self.span < count[:, None], 0.0).sum(1) / count.clamp(min=1)
        return ((mean > self.threshold) == self.above) & (count > 0)

    def mark(self, sampled: Tensor) -> None:
        """Mark in `sampled` `[rows, 1]` the tokens that end their segments."""
        if self.rows and self.last is not None:
            sampled[self.row, 0] += (self.last * LAST).to(sampled.dtype)
        self.last = None

    def apply(self, logits: Tensor) -> Tensor:
        if not self.rows:
            return logits
        if self.leave is None:
            raise RuntimeError("the sampler did not show its logits: no entropy was taken")
        for row, segment in self.rows.items():
            _restrict(logits[row : row + 1], segment)
        # The reserved token is certain where the row leaves, and impossible elsewhere.
        logits[self.row, self.stop] = torch.where(self.leave, CERTAIN, float("-inf")).to(logits.dtype)
        self.leave = None
        return logits


def _restrict(logits: Tensor, segment: Segment) -> None:
    """Bad words and penalties over the whole answer, in place, as vLLM's sampler applies them."""
    rule = segment.rule
    if rule.bad_words:
        apply_bad_words(logits, {0: [list(word) for word in rule.bad_words]}, [segment.answer])
    if rule.penalised:

        def column(values: list[Any], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=logits.device)

        apply_penalties(
            logits,
            column([segment.question], torch.long),
            column([segment.answer], torch.long),
            column([rule.presence_penalty], logits.dtype),
            column([rule.frequency_penalty], logits.dtype),
            column([rule.repetition_penalty], logits.dtype),
        )
