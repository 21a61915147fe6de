"""How good answers are: right ones, and agreement with the large model's."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from decoders.sequence.candidates.answers import normalised

Match = Literal["exact", "end"]
Z: Final = 1.959963984540054  # of a two-sided 95% interval


@dataclass(frozen=True)
class Proportion:
    """`hits` out of `of` prompts."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        return self.hits / self.of

    def interval(self, z: float = Z) -> tuple[float, float]:
        """Wilson's score interval (JASA 22, 1927); at 95%, or for another normal quantile `z`."""
        p, n = self.value, self.of
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low = 0.0 if self.hits == 0 else middle - half
        high = 1.0 if self.hits == n else middle + half
        return low, high


def is_right(text: str, accepted: Sequence[str], match: Match) -> bool:
    """Whether the answer is one of `accepted`, all compared after `normalised`.

    exact: the whole answer is one, or its last line that is not empty. end: it ends with one, and not in the
    midst of a word or a number.
    """
    whole = normalised(text)
    wanted = [normalised(one) for one in accepted]
    if match == "end":
        return any(re.search(rf"(?<![\w-])(?<!\d[.,]){re.escape(one)}$", whole) for one in wanted)
    lines = [line for line in text.splitlines() if line.strip()]
    return whole in wanted or bool(lines and normalised(lines[-1]) in wanted)


def prefix_agreement(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Tokens until the first difference, as a share of the longer answer's; 1 for equal ones."""
    longest = max(len(ours), len(theirs))
    pairs = enumerate(zip(ours, theirs, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    return same / longest if longest else 1.0
