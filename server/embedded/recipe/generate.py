"""Decoding and scoring with the finished model folders, as plain as can be: what the measurements need."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from .tokenizer import ASSISTANT, BOS, EOS, PAD, USER, read_tokenizer, token_id

Pick = Callable[[list[Tensor], Tensor], Tensor]
"""From each model's log-probabilities [rows, vocabulary] and the finished rows [rows] to token ids [rows]."""


@dataclass(frozen=True)
class Score:
    """Per token, [tokens] each: log-probability and entropy in nats, and whether it was the argmax."""

    logprobs: Tensor
    entropies: Tensor
    hits: Tensor


class Family:
    """The tokenizer and the float32 models of a folder of model folders."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.models = {
            name: LlamaForCausalLM.from_pretrained(folder / name, dtype=torch.float32) for name in names
        }
        self.tokenizer: Tokenizer = read_tokenizer(folder / "base")
        self.pad: int = token_id(self.tokenizer, PAD)
        self.eos: int = token_id(self.tokenizer, EOS)

    def ids(self, text: str) -> list[int]:
        """Token ids of plain text."""
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def chat(self, text: str) -> list[int]:
        """Token ids of a chat with one user message, ready for the assistant's answer."""
        return self.ids(f"{BOS}{USER}{text}{ASSISTANT}")

    @torch.no_grad()
    def decode(
        self, names: list[str], prompts: list[list[int]], pick: Pick, limit: int = 100, batch: int = 50
    ) -> list[list[int]]:
        """Step several models over one text, `pick` choosing each token; ids of the answers, end included."""
        answers: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            made = self._decode_batch(names, [prompts[row] for row in rows], pick, limit)
            for row, ids in zip(rows, made.tolist(), strict=True):
                answers[row] = [token for token in ids if token != self.pad]
        return answers

    def _decode_batch(self, names: list[str], prompts: list[list[int]], pick: Pick, limit: int) -> Tensor:
        longest = max(map(len, prompts))
        step = torch.tensor([[self.pad] * (longest - len(ids)) + ids for ids in prompts])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        caches: dict[str, object] = dict.fromkeys(names)
        done, made = torch.zeros(len(prompts), dtype=torch.bool), []
        for _ in range(limit):
            logprobs = []
            for name in names:
                output = self.models[name](
                    input_ids=step,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=caches[name],
                    use_cache=True,
                    logits_to_keep=1,
                )
                caches[name] = output.past_key_values
                logprobs.append(F.log_softmax(output.logits[:, -1].float(), -1))
            token = torch.where(done, self.pad, pick(logprobs, done))
            made.append(token)
            done |= token == self.eos
            if done.all():
                break
            step, mask = token[:, None], torch.cat([mask, torch.ones(len(prompts), 1, dtype=mask.dtype)], 1)
            positions = mask.sum(1, keepdim=True) - 1
        return torch.stack(made, 1)

    def text(self, ids: list[int]) -> str:
        """Text of an answer."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    @torch.no_grad()
    def score(
        self, name: str, prompts: list[list[int]], continuations: list[list[int]], batch: int = 64
    ) -> list[Score]:
        """Score given continuations of given prompts."""
        scores: dict[int, Score] = {}
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]) + len(continuations[row]))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            full = [prompts[row] + continuations[row] for row in rows]
            longest = max(map(len, full))
            ids = torch.tensor([row + [self.pad] * (longest - len(row)) for row in full])
            logits = self.models[name](input_ids=ids).logits
            for place, row in enumerate(rows):
                begin, wanted = len(prompts[row]) - 1, torch.tensor(continuations[row])
                logprobs = F.log_softmax(logits[place, begin : begin + len(wanted)].float(), -1)
                scores[row] = Score(
                    logprobs.gather(-1, wanted[:, None])[:, 0],
                    -(logprobs.exp() * logprobs).sum(-1),
                    logprobs.argmax(-1) == wanted,
                )
        return [scores[row] for row in range(len(prompts))]


def greedy(logprobs: list[Tensor], done: Tensor) -> Tensor:
    """Pick the first model's argmax."""
    return logprobs[0].argmax(-1)


def sampler(weights: list[float], seed: int) -> Pick:
    """Pick by sampling at temperature 1 from softmax(sum_k w_k log p_k): GenARM's decoding rule."""
    generator = torch.Generator().manual_seed(seed)

    def pick(logprobs: list[Tensor], done: Tensor) -> Tensor:
        mixed = torch.stack([weight * each for weight, each in zip(weights, logprobs, strict=True)]).sum(0)
        return torch.multinomial(F.softmax(mixed, -1), 1, generator=generator)[:, 0]

    return pick
