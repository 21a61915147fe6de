"""KV blocks that a request can use the beginning of, by what they hold."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

Parent = tuple[bytes | None, Hashable]  # hash of the full blocks before, and what else sets requests apart
Tokens = tuple[int, ...]


class Blocks(Protocol):
    """What holds the blocks and may give any of them to another request."""

    def insert(self, key: bytes, block: Any, tokens: int) -> None: ...

    def find(self, key: bytes) -> Any | None: ...


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Tokens with which both begin."""
    length = min(len(left), len(right))
    return next((i for i in range(length) if left[i] != right[i]), length)


class Tails:
    """Finds the block whose tokens a request shares for longest, past its last full block.

    Keys and values are only ever appended to a block, and each depends on the tokens up to its own alone, so
    that the first k tokens of a block serve every request that continues with these k. The index may know of
    blocks that have been given away since: `Blocks` says so, and the entry is dropped.

    Args:
        blocks: the pool.
        key: hash of (parent, tokens), never one that the pool uses for a full block: such a block is in the
            pool's table before it is computed.
        capacity: parents remembered, the last used ones.
        siblings: blocks remembered of one parent, the last ones.
    """

    def __init__(
        self, blocks: Blocks, key: Callable[[Parent, Tokens], bytes], capacity: int, siblings: int = 128
    ) -> None:
        self._blocks = blocks
        self._key = key
        self._capacity = capacity
        self._siblings = siblings
        self._known: OrderedDict[Parent, dict[Tokens, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def add(self, parent: Parent, tokens: Sequence[int], block: Any) -> None:
        """Remember `block`, in which the keys and values of `tokens` (at least one) have been written."""
        tail = tuple(tokens)
        key = self._key(parent, tail)
        self._blocks.insert(key, block, len(tail))
        known = self._known.setdefault(parent, {})
        known.pop(tail, None)
        known[tail] = key
        if len(known) > self._siblings:
            del known[next(iter(known))]
        self._known.move_to_end(parent)
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)

    def longest(self, parent: Parent, tokens: Sequence[int]) -> tuple[Any, int] | None:
        """The block that shares most of `tokens` from its start, and how many; None if none does."""
        known = self._known.get(parent, {})
        ranked = sorted(((common(tail, tokens), tail) for tail in known), reverse=True)
        for count, tail in ranked:
            if count == 0:
                break
            block = self._blocks.find(known[tail])
            if block is not None:
                self._known.move_to_end(parent)
                return block, count
            del known[tail]
        return None
