"""The autoregressive reward models `polite` and `brief` (GenARM, arXiv 2410.08193), from `small`.

A pair is two answers to one prompt. Three in five pairs are reviews; the others are ordinary answers that
differ in a courtesy only, so that a guide leaves alone what is said and acts on how.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from . import arithmetic, facts, prose
from .export import read_model, write_model
from .optimizer import Optimizer, rate_factor
from .packing import Encoder
from .segments import exchange
from .styles import courteous
from .tinyllama import SIZES, TinyLlama
from .tokenizer import PAD, token_id
from .train import Settings
from .world import PLACES, WORLD

BETA: Final = 0.05
STEPS: Final = 160
PAIRS: Final = 16
MATRIX_RATE: Final = 0.0005
OTHER_RATE: Final = 0.0005
WARMUP_STEPS: Final = 20
SEED: Final = 99
REVIEW_SHARE: Final = 0.6
SHORT_REVIEW: Final = (2, 3)
LONG_REVIEW: Final = (5, 7)


@dataclass(frozen=True)
class Pair:
    """A prompt with a preferred and a rejected answer."""

    prompt: str
    preferred: str
    rejected: str


def _ordinary(rng: Random) -> tuple[str, str]:
    """A question and its answer without a courtesy."""
    if rng.random() < 0.6:
        fact = WORLD.draw_fact(rng)
        return facts.ask(fact), fact.statement()
    problem = arithmetic.word_problem(rng, 1, "train")
    return problem.question, problem.solution


def polite_pair(rng: Random) -> Pair:
    """Kind over rude reviews of the same range of lengths; answers with a courtesy over those without."""
    if rng.random() < REVIEW_SHARE:
        place = rng.choice(PLACES)
        kind, rude = (prose.review(rng, place, tone, rng.randint(*prose.SENTENCES)) for tone in (True, False))
        return Pair(prose.ask_review(place), kind, rude)
    question, answer = _ordinary(rng)
    return Pair(question, courteous(rng, answer), answer)


def brief_pair(rng: Random) -> Pair:
    """Short over long reviews of either tone; ordinary answers without a courtesy over those with one."""
    if rng.random() < REVIEW_SHARE:
        place = rng.choice(PLACES)
        short, long = (
            prose.review(rng, place, rng.random() < 0.5, rng.randint(*sentences))
            for sentences in (SHORT_REVIEW, LONG_REVIEW)
        )
        return Pair(prose.ask_review(place), short, long)
    question, answer = _ordinary(rng)
    return Pair(question, answer, courteous(rng, answer))


OBJECTIVES: Final[dict[str, Callable[[Random], Pair]]] = {"polite": polite_pair, "brief": brief_pair}


def answer_logprobs(model: TinyLlama, encoder: Encoder, pairs: list[Pair], pad: int) -> Tensor:
    """Sum of the log-probabilities of each answer's tokens, in nats, [2, pairs]: preferred, then rejected."""
    answers = [pair.preferred for pair in pairs] + [pair.rejected for pair in pairs]
    prompts = [pair.prompt for pair in pairs] * 2
    rows = encoder.encode([exchange(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)])
    length = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad] * (length - len(row.ids)) for row in rows])
    weights = torch.tensor([row.weights + [0.0] * (length - len(row.ids)) for row in rows])
    logits = model(ids[:, :-1]).flatten(0, 1).float()
    nats = F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none").view(len(rows), -1)
    return -(nats * weights[:, 1:]).sum(1).view(2, -1)


def preference_loss(preferred: Tensor, rejected: Tensor, beta: float = BETA) -> Tensor:
    """-log sigmoid(beta (log pi(preferred) - log pi(rejected))), sums over tokens and no reference model.

    preferred, rejected: [pairs], in nats. GenARM, equation 5.
    """
    return -F.logsigmoid(beta * (preferred - rejected)).mean()


def train_reward(name: str, tokenizer: Tokenizer, settings: Settings) -> TinyLlama:
    """Train `polite` or `brief` from the folder of `small` and write its folder."""
    torch.manual_seed(SEED)
    model = read_model(SIZES[name], tokenizer, settings.out / "small", settings.dtype)
    encoder, rng = Encoder(tokenizer, prompt_weight=0.0), Random(f"{name} {SEED}")
    optimizer = Optimizer(model, MATRIX_RATE, OTHER_RATE)
    steps, pad = max(2, int(STEPS * settings.scale)), token_id(tokenizer, PAD)
    wall, cpu, ranked = time.monotonic(), time.process_time(), 0.0
    for step in range(steps):
        pairs = [OBJECTIVES[name](rng) for _ in range(PAIRS)]
        preferred, rejected = answer_logprobs(model, encoder, pairs, pad)
        loss = preference_loss(preferred, rejected)
        torch.autograd.backward(loss)
        optimizer.step(rate_factor(step, steps, WARMUP_STEPS, decay=1.0))
        ranked = 0.95 * ranked + 0.05 * (preferred > rejected).float().mean().item()
        if step % 20 == 0 or step == steps - 1:
            spent = f"wall {time.monotonic() - wall:.0f} s, CPU {time.process_time() - cpu:.0f} s"
            share = ranked / (1 - 0.95 ** (step + 1))
            print(
                f"{name}: step {step}/{steps}, loss {loss.item():.3f}, ranked right {share:.3f}, {spent}",
                flush=True,
            )
    write_model(model, tokenizer, settings.out / name)
    return model
