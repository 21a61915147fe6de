"""The oracle: what guided decoding must give, from Hugging Face models in float32 without a KV cache.

Everything after the models' logits is float64 and written from the papers' formulas. Guides may have more
tokens than the base (those are nobody's) or fewer (a token that a guide in use cannot give is ruled out).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

NOTHING = -math.inf
GRID = tuple(i / 10 for i in range(21))
# Nearer to a bound, or to the next best candidate, than this the oracle does not say which side is right.
UNDECIDED_BITS = 1e-4
UNDECIDED_NATS = 1e-4


@dataclass
class Expected:
    """Of one answer, by position.

    base, logprobs: log-probabilities `[positions, vocab]` of the base and of the distribution that tokens are
    taken from. opened: whether the gate is open. alphas: of dynamic fusion, `[experts, positions]`.
    decided: bool `[positions]`; False where float32 may take another branch.
    """

    base: Tensor
    logprobs: Tensor
    opened: Tensor
    decided: Tensor
    alphas: Tensor | None = None


class Oracle:
    """Args: paths: the models' folders by name; requests name guides by the same names."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths = paths
        self._models: dict[str, Any] = {}
        self._logits: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    @torch.no_grad()
    def logits(self, model: str, ids: Sequence[int]) -> Tensor:
        """Next-token logits `[len(ids), vocab]`, float64."""
        key = (model, tuple(ids))
        if key not in self._logits:
            if model not in self._models:
                load = AutoModelForCausalLM.from_pretrained
                self._models[model] = load(
                    self.paths[model], dtype=torch.float32, attn_implementation="eager"
                )
            found = self._models[model].eval()(torch.tensor([ids]), use_cache=False).logits
            self._logits[key] = found[0].double()
        return self._logits[key]

    def expected(
        self, base: str, prompt: Sequence[int], answer: Sequence[int], asked: Mapping[str, Any] | None
    ) -> Expected:
        """What holds at each position of `answer`, for the request's `decoding.logits` object."""
        ids = [*prompt, *answer]
        where = slice(len(prompt) - 1, len(ids) - 1)
        own = self.logits(base, ids)[where]
        asked = asked or {}

        def raw(name: str) -> Tensor:
            return self.logits(name, ids)[where]

        if not asked:
            closed = torch.zeros(len(answer), dtype=torch.bool)
            return Expected(own.log_softmax(-1), own.log_softmax(-1), closed, ~closed)
        if asked["method"] == "dynamic_fusion":
            found = dynamic_fusion(
                own,
                [raw(name) for name in asked["experts"]],
                raw(asked["small"]),
                asked.get("grid", GRID),
            )
        else:
            found = everywhere(own, _sum(own, raw, asked))
        return gated(found, own, asked.get("entropy_gate"))


def _sum(own: Tensor, raw: Any, asked: Mapping[str, Any]) -> Tensor:
    if asked["method"] == "inverse_value":
        return inverse_value(own, [raw(name) for name in asked["values"]], asked.get("weight", 1.0))
    guides = [raw(name) for name in asked["weights"]]
    weights = list(asked["weights"].values())
    if asked["method"] == "genarm":
        return genarm(own, guides, weights)
    return linear(own, guides, weights, asked.get("alpha", 0.0))


def fit(values: Tensor, vocabulary: int) -> Tensor:
    """A guide's values `[positions, its vocab]` for the base's vocabulary."""
    missing = max(0, vocabulary - values.shape[-1])
    padding = torch.full((values.shape[0], missing), NOTHING, dtype=values.dtype)
    return torch.cat([values, padding], dim=-1)[:, :vocabulary]


def weigh(base: Tensor, guides: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """base + sum_k w_k guide_k, not normalised; what a guide of weight != 0 cannot give is ruled out."""
    total = base.clone()
    for guide, weight in zip(guides, weights, strict=True):
        if weight != 0:
            fitted = fit(guide, base.shape[-1])
            impossible = fitted == NOTHING
            total = total + weight * torch.where(impossible, 0.0, fitted)
            total = torch.where(impossible, NOTHING, total)
    return total


def genarm(base: Tensor, guides: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """log pi = -log Z + log pi_base + sum_k w_k log pi_k."""
    terms = [guide.log_softmax(-1) for guide in guides]
    return weigh(base.log_softmax(-1), terms, weights).log_softmax(-1)


def linear(base: Tensor, guides: Sequence[Tensor], weights: Sequence[float], alpha: float = 0.0) -> Tensor:
    """As GenARM, with any weights; tokens with p_base < alpha max p_base are ruled out."""
    fused = genarm(base, guides, weights)
    probabilities = base.softmax(-1)
    implausible = probabilities < alpha * probabilities.max(-1, keepdim=True).values
    return torch.where(implausible, NOTHING, fused).log_softmax(-1)


def inverse_value(base: Tensor, values: Sequence[Tensor], weight: float = 1.0) -> Tensor:
    """L_base + L_value, raw logits."""
    return weigh(base, values, [weight] * len(values)).log_softmax(-1)


def divergence(left: Tensor, right: Tensor) -> Tensor:
    """KL(left || right) `[positions]` of two tables of log-probabilities, over the tokens of both."""
    terms = left.exp() * (left - right)
    return torch.where((left == NOTHING) | (right == NOTHING), 0.0, terms).sum(-1)


def dynamic_fusion(
    base: Tensor, experts: Sequence[Tensor], small: Tensor, grid: Sequence[float] = GRID
) -> Expected:
    """Every expert with every alpha tried; the one whose shift is nearest to the experts' own wins."""
    vocabulary = base.shape[-1]
    fitted = [fit(one, vocabulary) for one in (*experts, small)]
    common = torch.stack([base, *fitted]).gt(NOTHING).all(0)

    def distribution(logits: Tensor) -> Tensor:
        return torch.where(common, logits, NOTHING).log_softmax(-1)

    large, *tuned, untuned = (distribution(one) for one in (base, *fitted))
    shifts = [divergence(one, untuned) for one in tuned]
    candidates, objectives, choices = [], [], []
    for k, expert in enumerate(tuned):
        for a in grid:
            step = torch.where(common, expert - untuned, 0.0)
            fused = distribution(large + a * step)
            moved = divergence(fused, large)
            candidates.append(fused)
            objectives.append(sum(((moved - shift) ** 2 for shift in shifts), torch.zeros_like(moved)))
            choices.append((k, a))
    objective = torch.stack(objectives)
    best = objective.argmin(0)
    positions = torch.arange(len(base))
    logprobs = torch.stack(candidates)[best, positions]
    alphas = torch.zeros(len(experts), len(base), dtype=torch.float64)
    for i, chosen in enumerate(best.tolist()):
        k, a = choices[chosen]
        alphas[k, i] = a
    decided = torch.ones(len(base), dtype=torch.bool)
    for i, chosen in enumerate(best.tolist()):
        # The derivative of a square: what an error of the divergences can move the objective by.
        reach = objective[chosen, i] + UNDECIDED_NATS * (2 * objective[chosen, i].sqrt() + UNDECIDED_NATS)
        rivals = [j for j in range(len(choices)) if objective[j, i] <= reach and j != chosen]
        decided[i] = all(choices[j][1] == choices[chosen][1] == 0 for j in rivals)
    return Expected(base.log_softmax(-1), logprobs, torch.ones_like(decided), decided, alphas)


def everywhere(base: Tensor, logprobs: Tensor) -> Expected:
    always = torch.ones(len(base), dtype=torch.bool)
    return Expected(base.log_softmax(-1), logprobs, always, always.clone())


def entropy(logprobs: Tensor) -> Tensor:
    """Shannon entropy in bits of each row."""
    return -(logprobs.exp() * logprobs).nan_to_num(0.0).sum(-1) / math.log(2)


def gated(found: Expected, base: Tensor, bound: float | None) -> Expected:
    """Guidance only where the base's entropy in bits exceeds the bound."""
    if bound is None:
        return found
    bits = entropy(base.log_softmax(-1))
    open_ = bits > bound
    return Expected(
        found.base,
        torch.where(open_[:, None], found.logprobs, found.base),
        found.opened & open_,
        found.decided & ((bits - bound).abs() > UNDECIDED_BITS),
        None if found.alphas is None else torch.where(open_, found.alphas, 0.0),
    )
