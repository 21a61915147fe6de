"""The plan: what it promises for any prompt and settings, and that it does what the reference does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoders.cache.plan import Compression, Plan, make_plan
from decoders.cache.settings import Settings
from tests.decoders.cache.reference import events

SETTINGS = st.builds(
    Settings,
    method=st.sampled_from(["kvmerger", "streaming"]),
    budget=st.floats(0.05, 1.0),
    recent=st.integers(0, 200),
    sinks=st.integers(0, 40),
    min_prompt=st.integers(1, 300),
    peak=st.floats(0.1, 1.0),
    decode=st.none() | st.tuples(st.integers(64, 400), st.integers(0, 63)),
    window=st.integers(0, 100),
    heavy=st.floats(0.0, 1.0),
)
BLOCKS = st.sampled_from([16, 32, 128])


def compressions(plan: Plan | None, tokens: int) -> list[Compression]:
    """All up to `tokens` tokens."""
    found, at = [], 0
    while plan is not None and (one := plan.after(at)) is not None and one.at <= tokens:
        found.append(one)
        at = one.at
    return found


@settings(max_examples=400, deadline=None)
@given(SETTINGS, st.integers(1, 1500), BLOCKS, st.integers(0, 900))
def test_blocks_are_freed_whole_and_in_order(given: Settings, prompt: int, block: int, more: int) -> None:
    plan = make_plan(prompt, given, block)
    start = at = held_end = 0
    for one in compressions(plan, prompt + more):
        assert one.at > at
        assert one.start == start
        assert one.start < one.end <= one.at
        assert one.end % block == one.slots % block == 0
        assert 0 < one.slots < one.tokens
        assert one.skip * block == one.end - one.slots
        assert one.held == (held_end - start if at else 0)
        assert one.slots >= given.sinks + 2 * one.heavy + 1
        assert one.window <= min(given.window, one.at - at, one.at - start)
        start, at, held_end = one.skip * block, one.at, one.end


@settings(max_examples=400, deadline=None)
@given(SETTINGS, st.integers(1, 1500), BLOCKS, st.integers(0, 900))
def test_it_is_what_the_reference_walks_through(given: Settings, prompt: int, block: int, more: int) -> None:
    decode = {"trigger": given.decode[0], "keep": given.decode[1]} if given.decode else None
    names = ("method", "budget", "recent", "sinks", "min_prompt", "peak")
    method = {**{name: getattr(given, name) for name in names}, "decode": decode}
    expected = [
        (one.at, one.at - one.rest, one.slots) for one in events(method, prompt, prompt + more, block)
    ]
    if given.budget >= 1:
        expected = []
    found = compressions(make_plan(prompt, given, block), prompt + more)
    assert [(one.at, one.end, one.slots) for one in found] == expected


@settings(max_examples=300, deadline=None)
@given(SETTINGS, st.integers(1, 1500), BLOCKS, st.lists(st.integers(0, 2500), max_size=20))
def test_it_is_a_pure_function(given: Settings, prompt: int, block: int, asked: list[int]) -> None:
    """Whatever was asked before, and in whatever order, the answers are the same."""
    one, other = make_plan(prompt, given, block), make_plan.__wrapped__(prompt, given, block)
    assert (one is None) == (other is None)
    if one is None or other is None:
        return
    for computed in asked:
        one.after(computed)
    for computed in sorted(asked):
        assert one.before(computed) == other.before(computed)
        assert one.after(computed) == other.after(computed)
        assert one.skip(computed) == other.skip(computed)
        assert one.most_blocks(computed) == other.most_blocks(computed)


@settings(max_examples=300, deadline=None)
@given(SETTINGS, st.integers(1, 1500), BLOCKS, st.integers(0, 900))
def test_shared_blocks_are_never_written_and_the_most_is_never_exceeded(
    given: Settings, prompt: int, block: int, more: int
) -> None:
    plan = make_plan(prompt, given, block)
    if plan is None:
        return
    total = prompt + more
    most = plan.most_blocks(total)
    seen = 0
    for computed in range(total + 1):
        skip = plan.skip(max(computed - 1, 0))  # freed only once the step is over
        seen = max(seen, -(-computed // block) - skip)
    assert seen == most
    for one in compressions(plan, total):
        assert plan.shared_tokens() <= one.end - one.slots
        assert plan.shared_tokens() <= one.at - one.window


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 800), BLOCKS, st.integers(64, 300), st.integers(0, 63), st.floats(0.1, 0.9))
def test_with_decode_what_is_held_is_bounded(
    prompt: int, block: int, trigger: int, keep: int, budget: float
) -> None:
    given = Settings("streaming", budget=budget, decode=(trigger, keep))
    plan = make_plan(prompt, given, block)
    assert plan is not None
    held = [computed - plan.skip(computed) * block for computed in range(prompt, 20_000, 7)]
    kept = prompt - plan.skip(prompt) * block
    bound = max(kept, int(budget * trigger)) + max(trigger, keep + block) + 3 * block
    assert max(held) <= bound
    assert plan.most_blocks(20_000) == plan.most_blocks(200_000)


def test_nothing_is_planned_where_nothing_would_be_freed() -> None:
    assert make_plan(1000, None, 32) is None
    assert make_plan(1000, Settings("kvmerger", budget=1.0), 32) is None
    assert make_plan(100, Settings("kvmerger", budget=0.5), 32) is None  # under min_prompt
    assert make_plan(130, Settings("kvmerger", budget=0.9), 128) is None  # not a whole block


def test_the_documented_example() -> None:
    """1000 tokens, blocks of 32, budget 0.5: 928 tokens become 448 slots, and 15 of 32 blocks are free."""
    plan = make_plan(1000, Settings("kvmerger", budget=0.5, window=32, heavy=0.1), 32)
    assert plan is not None
    one = plan.after(0)
    assert one is not None
    assert (one.at, one.start, one.end, one.slots, one.skip) == (1000, 0, 928, 448, 15)
    assert plan.after(1000) is None
    assert plan.shared_tokens() == 480


@pytest.mark.parametrize("peak", [0.4, 0.6])
def test_with_peak_a_prompt_needs_fewer_blocks(peak: float) -> None:
    plan = make_plan(4000, Settings("kvmerger", budget=0.3, peak=peak), 32)
    assert plan is not None
    assert plan.most_blocks(4000) <= -(-int(4000 * peak) // 32) + 1
