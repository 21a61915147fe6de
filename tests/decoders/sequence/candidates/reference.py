"""The Consensus Game from a Hugging Face model in float64, one whole forward pass a candidate (2310.09139).

Written from the paper's equations; plain Python for the game, no cache and no batches for the model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Table = list[list[float]]


def log_normalised(logs: Any, axis: int) -> Any:
    top = logs.max(axis, keepdims=True)
    return logs - top - np.log(np.exp(logs - top).sum(axis, keepdims=True))


def softmax(logs: Any, axis: int) -> Any:
    weights = np.exp(logs - logs.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


def game(generator: Any, discriminator: Any, rounds: int) -> tuple[Any, Any]:
    """(pi_G(y|v), pi_D(v|y)) after `rounds` rounds.

    generator: log P(y|x,v). discriminator: log P(v|x,y). All `[..., y, v]`, v = 0 for correct.
    """
    first_g = log_normalised(log_normalised(np.asarray(generator, np.float64), -1), -2)
    first_d = log_normalised(log_normalised(np.asarray(discriminator, np.float64), -2), -1)
    g, d = np.exp(first_g), np.exp(first_d)
    seen_g, seen_d = np.zeros_like(g), np.zeros_like(d)
    for t in range(1, rounds + 1):
        seen_g += g
        seen_d += d
        scale = 1 / (0.1 * t) + 0.1
        g = softmax((seen_d / (2 * t) + 0.1 * first_g) / scale, -2)
        d = softmax((seen_g / (2 * t) + 0.1 * first_d) / scale, -1)
    return g, d


@dataclass
class Expected:
    """By candidate: log P(y|x,correct), log P(y|x,incorrect), log P(yes|x,y), log P(no|x,y), and the
    rules.
    """

    logprobs: Table
    scores: list[dict[str, float]]


class Reference:
    def __init__(self, path: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)

    @torch.inference_mode()
    def rows(self, prompt: list[int], answer: list[int]) -> list[float]:
        """log P of each of the answer's tokens."""
        logits = self.model(torch.tensor([[*prompt, *answer]])).logits[0].double()
        assert logits.dtype == torch.float64
        logs = logits.log_softmax(-1)
        return [float(logs[len(prompt) + i - 1, token]) for i, token in enumerate(answer)]

    def after(self, asked: str, answer: str, *, chat: bool) -> float:
        """log P of the text `answer` after the question as a user's turn, or as plain text."""
        if chat:
            turn = [{"role": "user", "content": asked}]
            text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            prompt = self.tokenizer.encode(text, add_special_tokens=False)
            whole = self.tokenizer.encode(text + answer, add_special_tokens=False)
        else:
            prompt, whole = self.tokenizer.encode(asked), self.tokenizer.encode(asked + answer)
        assert whole[: len(prompt)] == prompt
        return sum(self.rows(prompt, whole[len(prompt) :]))

    def table(self, question: str, candidates: list[str], *, chat: bool) -> Table:
        """The four log-probabilities of each candidate, as `Expected` has them."""
        table = []
        for one in candidates:
            judged = f"{question}\nProposed answer: {one}\nIs the proposed answer correct?"
            table.append(
                [
                    self.after(f"{question}\nAnswer:", f" {one}", chat=chat),
                    self.after(f"{question}\nIncorrect answer:", f" {one}", chat=chat),
                    self.after(judged, " yes", chat=chat),
                    self.after(judged, " no", chat=chat),
                ]
            )
        return table


def ranked(tables: list[Table], rounds: int = 5000) -> list[Expected]:
    """What the rules say of questions with equally many candidates."""
    logs = np.array(tables)
    generator, labels = logs[..., :2], log_normalised(logs[..., 2:], -1)
    first_g, first_d = game(generator, labels, 0)
    last_g, last_d = game(generator, labels, rounds)
    rules = {
        "g": generator[..., 0],
        "mi": generator[..., 0] + labels[..., 0],
        "sc": first_g[..., 0],
        "d": first_d[..., 0],
        "er_g": last_g[..., 0],
        "er_d": last_d[..., 0],
    }
    return [
        Expected(
            table, [{rule: float(values[i, y]) for rule, values in rules.items()} for y in range(len(table))]
        )
        for i, table in enumerate(tables)
    ]
