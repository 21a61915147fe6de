"""Guidance: what a guided request asks of the worker, as plain values, and what was done for it.

A method makes a `Guidance`; it travels to the worker as a dict. Nothing here imports torch: the server reads
its configuration, methods included, before it settles torch's environment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from decoders.logits.wire import KEY


@dataclass(frozen=True)
class Guidance:
    """One request's guidance, with guides by name.

    weights: of a weighted sum, base + sum_k w_k guide_k. experts, small, grid: of dynamic fusion, instead.
    alone: the guide whose own distribution it is, instead of anything made of the base's.
    alpha: plausibility mask. gate: entropy in bits that base must exceed; None opens always. logprobs: whose
    are reported.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    experts: Sequence[str] = ()
    small: str | None = None
    grid: Sequence[float] = ()
    alone: str | None = None
    alpha: float = 0.0
    gate: float | None = None
    logprobs: Literal["guided", "base"] = "guided"

    def guides(self) -> tuple[str, ...]:
        """The guides that must run for this request, sorted; those of weight zero need not."""
        used = {name for name, weight in self.weights.items() if weight != 0} | set(self.experts)
        return tuple(sorted(used | {name for name in (self.small, self.alone) if name is not None}))

    def does_nothing(self) -> bool:
        return not self.guides() and self.alpha == 0

    def to_wire(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "weights": dict(self.weights),
            "experts": list(self.experts),
            "grid": list(self.grid),
        }

    @classmethod
    def from_wire(cls, extra_args: Mapping[str, Any] | None) -> "Guidance | None":
        """The guidance in `SamplingParams.extra_args`, if there is one."""
        raw = (extra_args or {}).get(KEY)
        return cls(**raw) if raw else None


@dataclass
class Outcome:
    """What guidance did in one request, by position of the token it was done for (a position may be computed
    again).

    opened: whether the gate was open. alphas: of dynamic fusion, by expert. output: vLLM's list of the
    choice's tokens, which tells the choices of a request apart.
    """

    output: list[int] = field(default_factory=list)
    opened: dict[int, bool] = field(default_factory=dict)
    alphas: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, position: int, opened: bool, alphas: Mapping[str, float]) -> None:
        self.opened[position] = opened
        for name, value in alphas.items():
            self.alphas.setdefault(name, {})[position] = round(value, 4)

    def to_wire(self) -> dict[str, Any]:
        """Plain values for the way from the worker to the server; positions as pairs, in order."""
        alphas = {name: sorted(values.items()) for name, values in self.alphas.items()}
        return {"output": list(self.output), "opened": sorted(self.opened.items()), "alphas": alphas}

    @classmethod
    def from_wire(cls, raw: Mapping[str, Any]) -> "Outcome":
        alphas = {name: dict(values) for name, values in raw["alphas"].items()}
        return cls(list(raw["output"]), dict(raw["opened"]), alphas)

    def summary(self, tokens: int | None = None) -> dict[str, Any]:
        """For the report: the tokens decided, how many of them with guidance, and dynamic fusion's alphas.

        tokens: of the answer, if these are fewer: a stop string is found only when more have been decided;
        or more: no operator ran for some.
        """
        kept = sorted(self.opened) if tokens is None else range(tokens)
        summary: dict[str, Any] = {
            "tokens": len(kept),
            "guided": sum(self.opened.get(one, False) for one in kept),
        }
        if self.alphas and kept:
            alphas = {name: [values.get(one, 0.0) for one in kept] for name, values in self.alphas.items()}
            summary["mean_alpha"] = {
                name: round(sum(values) / len(kept), 4) for name, values in alphas.items()
            }
            summary["alphas"] = alphas
        return summary
