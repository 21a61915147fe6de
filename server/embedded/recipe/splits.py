"""Which facts of the corpus are kept from training: a stable three-way split by content."""

import zlib
from typing import Literal

Split = Literal["train", "dev", "test"]


def split_of(key: str) -> Split:
    """Assign a string to 80% train, 10% dev, 10% test, the same on every machine."""
    bucket = zlib.crc32(key.encode()) % 10
    if bucket == 0:
        return "test"
    return "dev" if bucket == 1 else "train"


def pair_split(a: int, b: int) -> Split:
    """Split of an unordered pair of operands.

    Unordered, because 12 + 30 in training would give away 30 + 12. A single digit with a number below 20 is
    always
    for training: such sums are the single steps (`ones 12 - 8 = 4`) of which worked sums are made.
    """
    if min(a, b) < 10 and max(a, b) < 20:
        return "train"
    return split_of(f"pair {min(a, b)} {max(a, b)}")


def options_split(question_key: str, options: list[str]) -> Split:
    """Split of the unordered set of options under one question."""
    return split_of(f"options {question_key} {' '.join(sorted(options))}")
