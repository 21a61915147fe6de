"""Training of `small` and `base`: stages of phases, each phase of one row length and one mix."""

import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from .documents import (
    COPYING,
    LONG_MIX,
    RETRIEVAL_MIX,
    VERDICT_MIX,
    VERDICTS_ONLY,
    WORLD_MIX,
    Mix,
    corpus_digest,
    with_arithmetic,
)
from .export import padded_vocabulary, read_model, write_model
from .optimizer import Optimizer, rate_factor
from .packing import VERDICT_WEIGHT, Rows, token_count, training_rows
from .tinyllama import SIZES, TinyLlama

WARMUP_STEPS: Final = 50
REPORT_TOKENS: Final = 100_000
SMOOTHING: Final = 0.03


@dataclass(frozen=True)
class Phase:
    """Rows of `length` tokens, about `tokens` in all, with documents in the shares of `mix`."""

    length: int
    tokens: int
    mix: Mix


@dataclass(frozen=True)
class Stage:
    """Phases under one learning-rate schedule.

    batch: tokens a step. matrix_rate, other_rate: see `Optimizer`. decay: last share of steps with falling
        rate.
    """

    phases: tuple[Phase, ...]
    batch: int
    matrix_rate: float
    other_rate: float
    decay: float
    seed: int


# The small model sees less arithmetic at first, so that word problems need the large one. The large one comes
# out of its first stage with one verdict for everything. A stage of nothing but verdicts gets it off that
# plateau, with embedding and norms frozen to spare what it knows; a last one brings the rest back.
PLANS: Final[dict[str, tuple[Stage, ...]]] = {
    "small": (
        Stage(
            (
                Phase(128, 500_000, COPYING),
                Phase(256, 1_300_000, with_arithmetic(WORLD_MIX, 0.4)),
                Phase(1024, 800_000, with_arithmetic(LONG_MIX, 0.4)),
            ),
            batch=512,
            matrix_rate=0.0015,
            other_rate=0.003,
            decay=0.5,
            seed=0,
        ),
        Stage(
            (
                Phase(256, 900_000, with_arithmetic(VERDICT_MIX, 0.9)),
                Phase(1024, 800_000, with_arithmetic(RETRIEVAL_MIX, 0.9)),
            ),
            batch=1024,
            matrix_rate=0.001,
            other_rate=0.002,
            decay=0.6,
            seed=1,
        ),
    ),
    "base": (
        Stage(
            (Phase(128, 300_000, COPYING), Phase(256, 1_500_000, WORLD_MIX), Phase(1024, 800_000, LONG_MIX)),
            batch=512,
            matrix_rate=0.0011,
            other_rate=0.002,
            decay=0.5,
            seed=0,
        ),
        Stage(
            (Phase(256, 750_000, VERDICTS_ONLY),),
            batch=1024,
            matrix_rate=0.0007,
            other_rate=0.0,
            decay=0.5,
            seed=7,
        ),
        Stage(
            (Phase(256, 400_000, WORLD_MIX), Phase(1024, 800_000, with_arithmetic(RETRIEVAL_MIX, 1.3))),
            batch=1024,
            matrix_rate=0.0008,
            other_rate=0.0008,
            decay=0.6,
            seed=2,
        ),
    ),
}


@dataclass(frozen=True)
class Settings:
    """Where and how much to train.

    out: folder of the model folders. scratch: folder of training rows kept for the next run.
    scale: factor on every token and step budget (1 for the committed weights).
    dtype: of the forward and backward pass.
    """

    out: Path
    scratch: Path
    scale: float
    dtype: torch.dtype


def native_dtype() -> torch.dtype:
    """bfloat16 where the CPU has matrix units for it (AMX), else float32."""
    cpuinfo = Path("/proc/cpuinfo")
    has_amx = cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text()
    return torch.bfloat16 if has_amx else torch.float32


def phase_rows(tokenizer: Tokenizer, phase: Phase, seed: int, settings: Settings) -> Rows:
    """The rows of a phase, from the scratch folder if they lie there."""
    tokens = int(phase.tokens * settings.scale)
    told = [corpus_digest(20), tokenizer.to_str(), phase.length, tokens, dict(phase.mix), seed]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    file = settings.scratch / f"rows-{key}.npz"
    if not file.exists():
        rows = training_rows(tokenizer, phase.length, phase.mix, tokens, seed)
        settings.scratch.mkdir(parents=True, exist_ok=True)
        np.savez(file, ids=rows.ids, weights=rows.weights)
    with np.load(file) as kept:
        return Rows(kept["ids"], kept["weights"])


def weighted_loss(model: TinyLlama, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy in nats a token: weighted, unweighted over answers, and unweighted over verdicts.

    ids, weights: [rows, tokens + 1].
    """
    labels, weight = ids[:, 1:], weights[:, 1:].float()
    logits = model(ids[:, :-1]).flatten(0, 1).float()
    nats = F.cross_entropy(logits, labels.flatten(), reduction="none").view_as(weight)
    answers = weight >= 1
    return (nats * weight).sum() / weight.sum(), nats[answers].mean(), nats[weight == VERDICT_WEIGHT].mean()


def _batches(phases: list[Rows], batch: int) -> list[tuple[int, int, int]]:
    plan = []
    for index, rows in enumerate(phases):
        count = max(1, batch // (rows.ids.shape[1] - 1))
        plan += [(index, start, count) for start in range(0, len(rows.ids) - count + 1, count)]
    return plan


class Progress:
    """Prints smoothed losses and the time spent, every `every` steps and at the end."""

    def __init__(self, label: str, steps: int, every: int) -> None:
        self.label, self.steps, self.every = label, steps, every
        self.smooth: list[float] = []
        self.wall, self.cpu = time.monotonic(), time.process_time()

    def report(self, step: int, length: int, losses: list[float]) -> None:
        """Take in a step's losses on rows of `length` tokens; NaN stands for a step without such tokens."""
        before = self.smooth or losses
        self.smooth = [
            new if math.isnan(old) else old if math.isnan(new) else old + SMOOTHING * (new - old)
            for old, new in zip(before, losses, strict=True)
        ]
        if step % self.every == 0 or step == self.steps - 1:
            spent = f"wall {time.monotonic() - self.wall:.0f} s, CPU {time.process_time() - self.cpu:.0f} s"
            nats = "/".join(f"{loss:.3f}" for loss in self.smooth)
            place = f"{self.label}: step {step}/{self.steps}, rows of {length}"
            print(f"{place}, answers/verdicts {nats} nats, {spent}", flush=True)


def train_stage(model: TinyLlama, stage: Stage, phases: list[Rows], label: str) -> None:
    """Run one stage over its rows, in order, printing progress about every 100,000 tokens."""
    optimizer = Optimizer(model, stage.matrix_rate, stage.other_rate)
    tensors = [(torch.from_numpy(rows.ids).long(), torch.from_numpy(rows.weights)) for rows in phases]
    plan = _batches(phases, stage.batch)
    progress = Progress(label, len(plan), max(1, REPORT_TOKENS // stage.batch))
    for step, (index, start, count) in enumerate(plan):
        ids, weights = (tensor[start : start + count] for tensor in tensors[index])
        loss, *losses = weighted_loss(model, ids, weights)
        torch.autograd.backward(loss)
        optimizer.step(rate_factor(step, len(plan), WARMUP_STEPS, stage.decay))
        progress.report(step, phases[index].ids.shape[1] - 1, [each.item() for each in losses])


def train_model(name: str, tokenizer: Tokenizer, settings: Settings, first_stage: int = 1) -> TinyLlama:
    """Train `small` or `base` from its plan and write its folder.

    Every stage begins from the bfloat16 weights that the stage before left in the scratch folder, so that
    training resumed at `first_stage` makes the same weights as training from the start.
    """
    stages = PLANS[name]
    for number, stage in list(enumerate(stages, 1))[first_stage - 1 :]:
        phases = [phase_rows(tokenizer, phase, stage.seed, settings) for phase in stage.phases]
        print(f"{name}, stage {number}: tokens {[token_count(rows) for rows in phases]}", flush=True)
        torch.manual_seed(stage.seed)
        if number == 1:
            model = TinyLlama(SIZES[name], padded_vocabulary(tokenizer), settings.dtype)
        else:
            before = settings.scratch / f"{name}-stage-{number - 1}"
            model = read_model(SIZES[name], tokenizer, before, settings.dtype)
        train_stage(model, stage, phases, f"{name}, stage {number}")
        write_model(model, tokenizer, settings.scratch / f"{name}-stage-{number}")
    write_model(model, tokenizer, settings.out / name)
    return model
