"""The exact distribution of short sampled answers over a few tokens, and the test that compares with it."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from transformers import LlamaForCausalLM

from tests.decoders.speculative.models import FEW


def exact(path: str, prompt: Sequence[int], length: int, temperature: float, top_p: float) -> np.ndarray:
    """Probability of every answer of this length, `[FEW ** length]`, by a Hugging Face model in float64."""
    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    answers = torch.tensor(list(itertools.product(range(FEW), repeat=length)))
    tokens = torch.cat([torch.tensor(prompt).expand(len(answers), -1), answers], dim=1)
    with torch.inference_mode():
        logits = model(tokens).logits[:, len(prompt) - 1 : -1] / temperature
    each = _nucleus(logits.softmax(-1), top_p)
    return each.gather(2, answers[:, :, None])[:, :, 0].prod(dim=1).numpy()


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The fewest likeliest tokens whose probabilities come to top_p, renormalised."""
    ordered, order = probabilities.sort(dim=-1, descending=True)
    ordered = torch.where(ordered.cumsum(-1) - ordered < top_p, ordered, 0.0)
    kept = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return kept / kept.sum(-1, keepdim=True)


def p_value(answers: Sequence[Sequence[int]], expected: np.ndarray) -> float:
    """Of the chi-square test of these answers against their probabilities; rare answers are one cell."""
    length = len(answers[0])
    index = Counter(int(np.ravel_multi_index(answer, (FEW,) * length)) for answer in answers)
    observed = np.array([index[i] for i in range(len(expected))], float)
    if (observed[expected == 0] > 0).any():
        return 0.0
    mean = expected * len(answers)
    common = mean >= 10
    cells, means = list(observed[common]), list(mean[common])
    if mean[~common].sum() >= 1:
        cells.append(observed[~common].sum())
        means.append(mean[~common].sum())
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in zip(cells, means, strict=True))
    half = torch.tensor([(len(cells) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))
