"""Multiple choice by generator, discriminator and their equilibrium, as the measurements need it."""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from .generate import Family
from .items import Item
from .prompts import NO, YES, discriminator_prompt, generator_prompt

ETA: Final = 0.1
LAMBDA: Final = 0.1
ITERATIONS: Final = 5000


def equilibrium(generator: Tensor, discriminator: Tensor) -> tuple[Tensor, Tensor]:
    """The last iterates of piKL no-regret learning (The Consensus Game, arXiv 2310.09139, equations 4 to 6).

    generator: pi_G1(y|v), [items, options, 2], normalised over options. discriminator: pi_D1(v|y), the same
        shape, normalised over the last axis. Index 0 of the last axis is `correct`.
    """
    start_g, start_d = generator.double().log(), discriminator.double().log()
    g, d = generator.double(), discriminator.double()
    sum_g, sum_d = torch.zeros_like(g), torch.zeros_like(d)
    for t in range(1, ITERATIONS + 1):
        sum_g, sum_d = sum_g + d / 2, sum_d + g / 2
        scale = 1 / (ETA * t) + LAMBDA
        g = F.softmax((sum_g / t + LAMBDA * start_g) / scale, 1)
        d = F.softmax((sum_d / t + LAMBDA * start_d) / scale, 2)
    return g, d


def initial_policies(generator: Tensor, discriminator: Tensor) -> tuple[Tensor, Tensor]:
    """pi_G1 and pi_D1 from log P(y|x,v) and log P(v|x,y), all [items, options, 2].

    Each side is first normalised over the other side's choices, then over its own.
    """
    return F.softmax(F.log_softmax(generator, 2), 1), F.softmax(F.log_softmax(discriminator, 1), 2)


def candidate_logprobs(family: Family, name: str, items: list[Item]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of each option under both cues and of both verdicts, [items, options, 2] each."""
    g_prompts, g_answers, d_prompts, d_answers = [], [], [], []
    for item in items:
        for option in item.options:
            for correct, verdict in ((True, YES), (False, NO)):
                g_prompts.append(family.chat(generator_prompt(item.prompt, correct)))
                g_answers.append(family.ids(f" {option}"))
                d_prompts.append(family.chat(discriminator_prompt(item.prompt, option)))
                d_answers.append(family.ids(verdict))
    shape = (len(items), -1, 2)
    g = torch.stack([score.logprobs.sum() for score in family.score(name, g_prompts, g_answers)])
    d = torch.stack([score.logprobs.sum() for score in family.score(name, d_prompts, d_answers)])
    return g.view(shape), d.view(shape)


def rank(family: Family, name: str, items: list[Item]) -> dict[str, float]:
    """Accuracy of every ranking rule on multiple-choice items, and how generator and discriminator relate."""
    g, d = (scores.double() for scores in candidate_logprobs(family, name, items))
    answer = torch.tensor([item.options.index(item.answer) for item in items])
    pi_g, pi_d = initial_policies(g, d)
    er_g, er_d = equilibrium(pi_g, pi_d)
    policies = {
        "g": g[..., 0],
        "sc": pi_g[..., 0],
        "mi": g[..., 0] + d[..., 0],
        "d": pi_d[..., 0],
        "er_g": er_g[..., 0],
        "er_d": er_d[..., 0],
    }
    chosen = {rule: policy.argmax(1) for rule, policy in policies.items()}
    result = {rule: _mean(pick == answer) for rule, pick in chosen.items()}
    truth = F.one_hot(answer, g.shape[1]).bool()
    result["g_or_d"] = _mean((chosen["g"] == answer) | (chosen["d"] == answer))
    result["disagree"] = _mean(chosen["g"] != chosen["d"])
    result["verdicts"] = _mean((d[..., 0] > d[..., 1]) == truth)
    return result


def _mean(values: Tensor) -> float:
    return round(values.double().mean().item(), 3)
