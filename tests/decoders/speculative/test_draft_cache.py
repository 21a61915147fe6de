"""The record of filled blocks against a record of every single slot."""

from collections.abc import Iterator

import numpy as np
import pytest

from decoders.speculative.draft_cache import DraftCache, Ints

SIZE, ROWS, BLOCKS = 4, 3, 6


class Slots:
    """In which step the model wrote each slot, and which of its writes the draft model has seen."""

    def __init__(self) -> None:
        self.model: dict[int, int] = {}
        self.draft: dict[int, int] = {}

    def computed(self, table: Ints, length: int) -> int:
        for position in range(length):
            slot = int(table[position // SIZE]) * SIZE + position % SIZE
            if self.draft.get(slot) != self.model[slot]:
                return position
        return length


@pytest.mark.parametrize("seed", range(20))
def test_what_counts_as_computed_is(seed: int) -> None:
    chance = np.random.default_rng(seed)
    cache, slots = DraftCache(SIZE), Slots()
    free = list(range(1, 60))
    tables = np.zeros((ROWS, BLOCKS), np.int64)
    lengths = np.zeros(ROWS, np.int64)
    for step in range(300):
        for row in range(ROWS):
            if lengths[row] > SIZE * BLOCKS - 6 or chance.random() < 0.03:  # another request takes the row
                free += [int(block) for block in tables[row] if block]
                tables[row], lengths[row] = 0, 0
        counts = chance.integers(1, 6, ROWS)
        ends = lengths + counts
        for row in range(ROWS):
            for column in range(-(-int(ends[row]) // SIZE)):
                if not tables[row, column]:
                    tables[row, column] = free.pop(int(chance.integers(len(free))))
        cache.model_wrote(tables, lengths, ends)
        slots.model |= dict.fromkeys(_slots(tables, lengths, ends), step)
        known = cache.computed(tables, lengths)
        truth = [slots.computed(tables[row], int(lengths[row])) for row in range(ROWS)]
        assert known.tolist() == truth
        if chance.random() < 0.6:
            cache.draft_wrote(tables, known, lengths)
            cache.draft_wrote(tables, lengths, ends)
            slots.draft |= {slot: slots.model[slot] for slot in _slots(tables, known, ends)}
        lengths = lengths + chance.integers(1, counts + 1)  # some of the tokens were drafts, and refused


def _slots(tables: Ints, starts: Ints, ends: Ints) -> Iterator[int]:
    for row in range(ROWS):
        for position in range(int(starts[row]), int(ends[row])):
            yield int(tables[row, position // SIZE]) * SIZE + position % SIZE


def test_blocks_found_again_are_known_as_far_as_they_were_filled() -> None:
    cache = DraftCache(SIZE)
    table = np.array([[1, 2, 3]])
    cache.model_wrote(table, np.array([0]), np.array([8]))
    cache.draft_wrote(table, np.array([0]), np.array([6]))
    again = np.array([[1, 2, 9], [1, 5, 6]])
    assert cache.computed(again, np.array([8, 8])).tolist() == [6, 4]
    assert cache.computed(again, np.array([3, 0])).tolist() == [3, 0]
