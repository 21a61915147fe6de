"""Entropy-adaptive decoding with Hugging Face models, one whole forward pass a token (arXiv 2502.06833)."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM

TIE = 1e-4  # nats between the best two tokens, or bits between mean and threshold: too close to call


@dataclass
class Expected:
    """`decided`: how many tokens from the first on no tie put in doubt."""

    tokens: list[int] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    switches: int = 0
    decided: int = 0
    tied: bool = False


class Reference:
    def __init__(self, small: str, large: str) -> None:
        self.models = {
            role: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            for role, path in (("small", small), ("large", large))
        }

    @torch.inference_mode()
    def logits(self, role: str, tokens: list[int]) -> torch.Tensor:
        return self.models[role](torch.tensor([tokens])).logits[0, -1].double()

    def run(
        self,
        prompt: list[int],
        length: int,
        *,
        threshold: float,
        window: int = 5,
        dwell: int = 10,
        switch: str = "next",
        start: str = "small",
        adjust: Any = None,
    ) -> Expected:
        """Greedy. `adjust(logits, answer)`: what penalties and masks make of the logits."""
        out, role, since = Expected(), start, None
        while len(out.tokens) < length:
            logits = self.logits(role, prompt + out.tokens)
            p = logits.softmax(-1)
            entropy = float(-(p * p.clamp_min(1e-300).log2()).sum())
            free = since is None or since >= dwell
            if (
                switch == "now"
                and free
                and self._crosses(out, [*out.entropies, entropy], role, threshold, window)
            ):
                role, since = _other(role), 0
                out.switches += 1
                continue
            final = adjust(logits, out.tokens) if adjust else logits
            best = final.topk(2)
            out.tied |= float(best.values[0] - best.values[1]) < TIE
            out.tokens.append(int(best.indices[0]))
            out.roles.append(role)
            out.entropies.append(entropy)
            out.decided += not out.tied
            since = None if since is None else since + 1
            free = since is None or since >= dwell
            last = len(out.tokens) == length
            if (
                switch == "next"
                and free
                and not last
                and self._crosses(out, out.entropies, role, threshold, window)
            ):
                role, since = _other(role), 0
                out.switches += 1
        return out

    def _crosses(
        self, out: Expected, entropies: list[float], role: str, threshold: float, window: int
    ) -> bool:
        recent = entropies[-window:]
        mean = sum(recent) / len(recent)
        out.tied |= abs(mean - threshold) < TIE
        return mean > threshold if role == "small" else mean <= threshold


def _other(role: str) -> str:
    return "large" if role == "small" else "small"
