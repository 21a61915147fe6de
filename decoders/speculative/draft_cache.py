"""Which KV slots hold the draft model's keys and values of the tokens that are there now."""

from collections.abc import Iterator
from typing import Any

import numpy as np

Ints = Any  # numpy array of integers


class DraftCache:
    """How far, from its first slot, each KV block is filled by the draft model.

    The draft model's keys lie in the same blocks as the model's own, but are missing wherever the model ran
    and the draft model did not: while drafting was off, and in blocks of the prefix cache filled then.
    Drafts made from what lies there instead would change no answer, but hardly one would be accepted.

    Args:
        block_size: slots of one block, in tokens.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.filled: Ints = np.zeros(0, np.int32)  # tokens, by block id

    def model_wrote(self, tables: Ints, starts: Ints, ends: Ints) -> None:
        """The model computed each row's tokens from `starts` up to `ends`: what was there before is gone.

        tables: `[rows, blocks]` block ids. starts, ends: `[rows]`, positions in tokens.
        """
        for rows, columns in self._touched(starts, ends):
            blocks = self._known(tables[rows, columns])
            left = np.maximum(starts[rows] - columns * self.block_size, 0)
            np.minimum.at(self.filled, blocks, left.astype(np.int32))

    def draft_wrote(self, tables: Ints, starts: Ints, ends: Ints) -> None:
        """The draft model computed them too; all tokens before `starts` it had computed already."""
        for rows, columns in self._touched(starts, ends):
            blocks = self._known(tables[rows, columns])
            self.filled[blocks] = np.minimum(ends[rows] - columns * self.block_size, self.block_size)

    def computed(self, tables: Ints, lengths: Ints) -> Ints:
        """How many of each row's first `lengths` tokens the draft model has computed: `[rows]`, no gaps."""
        width = -(-int(lengths.max(initial=0)) // self.block_size)
        if not width:
            return np.zeros(len(lengths), np.int64)
        wanted = np.clip(lengths[:, None] - np.arange(width) * self.block_size, 0, self.block_size)
        blocks = self._known(tables[:, :width])
        held = np.minimum(self.filled[blocks], wanted)
        gapless = np.cumprod(held == self.block_size, axis=1)
        gapless = np.concatenate([np.ones_like(gapless[:, :1]), gapless[:, :-1]], axis=1)
        return (gapless * held).sum(axis=1)

    def _known(self, blocks: Ints) -> Ints:
        """The same block ids, with room for them."""
        largest = int(blocks.max(initial=-1))
        if largest >= len(self.filled):
            grown: Ints = np.zeros(max(largest + 1, 2 * len(self.filled)), np.int32)
            grown[: len(self.filled)] = self.filled
            self.filled = grown
        return blocks

    def _touched(self, starts: Ints, ends: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Rows and the columns of their tables that hold these tokens, one column of a row at a time."""
        first, last = starts // self.block_size, (ends - 1) // self.block_size
        for step in range(int((last - first).max(initial=-1)) + 1):
            rows = np.nonzero(first + step <= last)[0]
            yield rows, first[rows] + step
