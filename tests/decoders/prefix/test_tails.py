"""The index of partly filled blocks, against a search through everything that was ever added."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from decoders.prefix.tails import Tails, common


class Pool:
    """Blocks by key; `forget` is what happens when a block is given to another request."""

    def __init__(self) -> None:
        self.held: dict[bytes, Any] = {}

    def insert(self, key: bytes, block: Any, tokens: int) -> None:
        self.held[key] = block

    def find(self, key: bytes) -> Any | None:
        return self.held.get(key)

    def forget(self, block: Any) -> None:
        self.held = {key: held for key, held in self.held.items() if held != block}


def key(parent: Any, tokens: tuple[int, ...]) -> bytes:
    return repr((parent, tokens)).encode()


def tails(pool: Pool, capacity: int = 100, siblings: int = 16) -> Tails:
    return Tails(pool, key, capacity, siblings)


A, B = (b"a", None), (b"a", ("salt",))


def test_the_block_that_shares_most_is_found_and_only_under_its_parent() -> None:
    pool = Pool()
    index = tails(pool)
    index.add(A, [1, 2, 3], "short")
    index.add(A, [1, 2, 4, 5], "long")
    assert index.longest(A, [1, 2, 4, 9, 9]) == ("long", 3)
    assert index.longest(A, [1, 2, 3, 4]) == ("short", 3)
    assert index.longest(A, [2]) is None
    assert index.longest(B, [1, 2, 3]) is None
    assert index.longest((None, None), [1]) is None


def test_blocks_given_away_are_not_found_and_their_entries_go() -> None:
    pool = Pool()
    index = tails(pool)
    index.add(A, [1, 2, 3], "first")
    index.add(A, [1, 2], "second")
    pool.forget("first")
    assert index.longest(A, [1, 2, 3]) == ("second", 2)
    assert len(index) == 1
    pool.forget("second")
    assert index.longest(A, [1, 2, 3]) is None
    assert len(index) == 0


def test_it_is_bounded_and_keeps_what_was_used_last() -> None:
    pool = Pool()
    index = tails(pool, capacity=2, siblings=2)
    for token in range(3):
        index.add(A, [token], f"a{token}")
    assert index.longest(A, [0]) is None
    assert index.longest(A, [1]) == ("a1", 1)
    index.add(B, [7], "b")
    assert index.longest(A, [2]) == ("a2", 1)  # used: B is now the one to go
    index.add((b"c", None), [7], "c")
    assert index.longest(B, [7]) is None
    assert index.longest(A, [2]) == ("a2", 1)
    assert len(index) == 3


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@given(
    st.lists(st.tuples(st.booleans(), TOKENS), max_size=30),
    TOKENS,
    st.booleans(),
    st.sets(st.integers(0, 29)),
)
def test_it_finds_what_a_search_through_everything_finds(
    added: list[tuple[bool, list[int]]], wanted: list[int], which: bool, lost: set[int]
) -> None:
    pool = Pool()
    index = tails(pool, siblings=30)
    for block, (parent, tokens) in enumerate(added):
        index.add(A if parent else B, tokens, block)
    for block in lost:
        pool.forget(block)
    there = [
        common(tokens, wanted)
        for block, (parent, tokens) in enumerate(added)
        if parent == which and pool.find(key(A if parent else B, tuple(tokens))) == block
    ]
    found = index.longest(A if which else B, wanted)
    if not any(there):
        assert found is None
    else:
        assert found is not None
        assert found[1] == max(there)
        parent, tokens = added[found[0]]
        assert parent == which
        assert common(tokens, wanted) == found[1]
