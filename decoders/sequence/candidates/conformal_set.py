"""Prediction sets of sampled answers (Conformal Language Modeling, arXiv 2306.10193, algorithm 1).

Pure: samples come in the order in which they were drawn, with a quality each and a likeness of each two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

SetScore = Literal["max", "sum", "count"]


@dataclass(frozen=True)
class Thresholds:
    """similarity: a sample more like a kept one than this is rejected (lambda 1). quality: so is one of less
    than this (lambda 2). stop: the set is complete when its score is at least this (lambda 3)."""

    similarity: float
    quality: float
    stop: float


@dataclass
class Growing:
    """A set while it grows. likeness: of two samples by index, in [0, 1]."""

    thresholds: Thresholds
    set_score: SetScore
    likeness: Callable[[int, int], float]
    kept: list[int] = field(default_factory=list)
    qualities: list[float] = field(default_factory=list)
    score: float = 0.0  # F of the set; an empty one has 0

    def add(self, quality: float) -> bool:
        """Take the next sample; whether it was kept."""
        index = len(self.qualities)
        self.qualities.append(quality)
        if quality < self.thresholds.quality:
            return False
        if any(self.likeness(index, one) > self.thresholds.similarity for one in self.kept):
            return False
        self.kept.append(index)
        if self.set_score == "max":
            self.score = max(self.score, quality)
        else:
            self.score += quality if self.set_score == "sum" else 1.0
        return True

    @property
    def complete(self) -> bool:
        return bool(self.kept) and self.score >= self.thresholds.stop


def grow(
    qualities: Sequence[float],
    likeness: Callable[[int, int], float],
    thresholds: Thresholds,
    set_score: SetScore,
) -> Growing:
    """The set that these samples, in their order, make; `qualities` of it are those of the samples looked
    at.
    """
    growing = Growing(thresholds, set_score, likeness)
    for quality in qualities:
        growing.add(quality)
        if growing.complete:
            break
    return growing
