"""What one segment tells the engine that decodes it, as plain values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

KEY = "decant.switch"  # under this name in `SamplingParams.extra_args`
MAX_WINDOW = 64  # entropies a rolling mean may run over


@dataclass(frozen=True)
class Rule:
    """When an engine hands an answer over, and what it must know of the answer's earlier segments.

    key: unique in the engine; under it the entropies can be asked for. threshold: bits. above: leave where
    the rolling mean exceeds the threshold (the small model), or where it does not (the large one). window,
    dwell: tokens. now: judge a position by its own entropy too, before its token is sampled. stop: the token
    that ends the segment. history: the answer's last entropies before this segment, in bits, at most
    window - 1 of them. emitted: tokens of the prompt that belong to the answer, at its end. trace: keep every
    entropy. The others are the request's own penalties and bad words, which have to see the whole answer.
    """

    key: str
    threshold: float
    above: bool
    window: int
    dwell: int
    now: bool
    stop: int
    history: tuple[float, ...] = ()
    emitted: int = 0
    trace: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    bad_words: tuple[tuple[int, ...], ...] = ()

    def wire(self) -> dict[str, Any]:
        return {KEY: asdict(self)}

    @classmethod
    def from_wire(cls, extra_args: Mapping[str, Any] | None) -> "Rule | None":
        """The rule in `SamplingParams.extra_args`, None if the request has none."""
        found = (extra_args or {}).get(KEY)
        if found is None:
            return None
        return cls(
            **{
                **found,
                "history": tuple(found["history"]),
                "bad_words": tuple(map(tuple, found["bad_words"])),
            }
        )

    @property
    def penalised(self) -> bool:
        return (self.presence_penalty, self.frequency_penalty, self.repetition_penalty) != (0.0, 0.0, 1.0)
