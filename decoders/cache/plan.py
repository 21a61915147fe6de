"""When a request's cache is compressed, and to what: a pure function of its prompt's length and its settings.

Scheduler and worker evaluate the plan each on its own and no message is exchanged, so a plan must not depend
on anything else: not on how a prompt is cut into pieces, what is found in the prefix cache, or who else runs.

A compression happens when the first `at` tokens of the request have been computed. Tokens are counted from
the request's beginning, and a block is numbered by the token it begins with:

    before  | null .. | start ........................ end | end .. at |     C = end, block-aligned
    after   | null ....................... | slots .. end  | end .. at |     `skip` blocks are free
    view    the block table shifted by `skip` blocks: slots and tokens lie one after another

The slots are written to the region's end, so that whole blocks at its beginning fall free. What is left of a
region is itself compressed again by the next compression, with what has come since.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from decoders.cache.settings import Settings


@dataclass(frozen=True)
class Compression:
    """One compression.

    at: how many tokens have been computed when it happens.
    start, end: the region, in tokens; start is a block's beginning, at or behind the last freed block's end.
    held: how many slots at the region's beginning stand there from earlier compressions.
    slots: what the region is compressed to, a whole number of blocks.
    skip: blocks freed since the request's beginning, when it is over.
    heavy: tokens of each head that stay alone because of their attention mass.
    window: how many of the last queries give the attention mass; all of them came after the one before.
    """

    at: int
    start: int
    end: int
    held: int
    slots: int
    skip: int
    heavy: int
    window: int

    @property
    def tokens(self) -> int:
        """Slots of the region before."""
        return self.end - self.start

    def freed(self, block_size: int) -> int:
        """Blocks that it frees."""
        return self.skip - self.start // block_size


def _up(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size) * block_size


@dataclass
class Plan:
    """All compressions of one request, in order; as many as are asked for, since an answer has no known end.

    prompt_tokens: the request's prompt. block_size: tokens of a block. It is never empty: `make_plan` gives
    None where nothing would be freed.
    """

    settings: Settings
    prompt_tokens: int
    block_size: int
    _known: list[Compression] = field(default_factory=list, repr=False)
    _rest: Iterator[Compression] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._rest = self._compressions()

    def before(self, computed: int) -> Compression | None:
        """The last compression that a step which begins after `computed` tokens finds done."""
        self._reach(computed)
        index = bisect_right(self._known, computed, key=lambda one: one.at)
        return self._known[index - 1] if index else None

    def after(self, computed: int) -> Compression | None:
        """The first compression that such a step, or a later one, is to do."""
        self._reach(computed)
        index = bisect_right(self._known, computed, key=lambda one: one.at)
        return self._known[index] if index < len(self._known) else None

    def skip(self, computed: int) -> int:
        """Leading blocks that are free when `computed` tokens have been computed."""
        last = self.before(computed)
        return last.skip if last is not None else 0

    def shared_tokens(self) -> int:
        """How many leading tokens may lie in blocks shared with other requests, a whole number of blocks.

        No block of theirs is ever written to, because the first compression frees it, and no query that
        scores keys is among them.
        """
        first = self.after(0)
        assert first is not None
        queries = (first.at - first.window) // self.block_size
        return min(first.skip, queries) * self.block_size

    def most_blocks(self, tokens: int) -> int:
        """The most blocks that are held at once while the first `tokens` tokens are computed."""
        self._reach(tokens)
        most = skip = 0
        for one in self._known[: bisect_left(self._known, tokens, key=lambda one: one.at)]:
            most = max(most, -(-one.at // self.block_size) - skip)
            skip = one.skip
        return max(most, -(-tokens // self.block_size) - skip)

    def _reach(self, computed: int) -> None:
        while self._rest is not None and (not self._known or self._known[-1].at <= computed):
            if (one := next(self._rest, None)) is None:
                self._rest = None
            else:
                self._known.append(one)

    def _compressions(self) -> Iterator[Compression]:
        state = _State(self.settings, self.block_size)
        final, region = self._final()
        for at, end, slots in self._pieces(final, region):
            yield from state.compress(at, end, slots)
        if region:
            yield from state.compress(self.prompt_tokens, region, final)
        yield from self._while_decoding(state, final)

    def _final(self) -> tuple[int, int]:
        """Slots that are left of the prompt's region, and its end; (0, 0) if the prompt is not compressed."""
        settings, tokens = self.settings, self.prompt_tokens
        region = (tokens - settings.recent) // self.block_size * self.block_size
        wanted = int(settings.budget * tokens) - (tokens - region)
        slots = _up(max(wanted, settings.sinks + 1), self.block_size)
        if tokens < settings.min_prompt or region <= slots:
            return 0, 0
        return slots, region

    def _pieces(self, final: int, region: int) -> Iterator[tuple[int, int, int]]:
        """Where a prompt is compressed while it is read, so that no more than `peak` of it is ever held."""
        settings, size = self.settings, self.block_size
        if not region or settings.peak >= 1:
            return
        # Room for what is left, for the recent tokens, and for at least four blocks of new ones.
        room = max(
            _up(int(settings.peak * self.prompt_tokens), size), final + _up(settings.recent, size) + 4 * size
        )
        skip, at = 0, room
        while at < self.prompt_tokens - size:
            end = (at - settings.recent) // size * size
            slots = min(_up(max(final * end // region, settings.sinks + 1), size), final)
            if end - skip * size > slots:
                yield at, end, slots
                skip = (end - slots) // size
            at = max(skip * size + room, at + size)

    def _while_decoding(self, state: "_State", final: int) -> Iterator[Compression]:
        settings, size = self.settings, self.block_size
        if settings.decode is None:
            return
        trigger, keep = settings.decode
        slots = _up(max(final, int(settings.budget * trigger), settings.sinks + 1), size)
        # Whatever the trigger, at least a block of tokens is given up at a time.
        step = max((trigger + 1 - keep) // size, 1) * size
        end = state.end
        at = max(end + max(trigger + 1, keep + step), self.prompt_tokens + 1)
        while True:
            end = (at - keep) // size * size
            yield from state.compress(at, end, slots)
            at = end + max(trigger + 1, keep + step)


class _State:
    """What has been compressed so far."""

    def __init__(self, settings: Settings, block_size: int) -> None:
        self.settings, self.block_size = settings, block_size
        self.at = self.end = self.skip = 0

    def compress(self, at: int, end: int, slots: int) -> Iterator[Compression]:
        """The compression of everything before `end` to `slots` slots, unless that frees no block."""
        start = self.skip * self.block_size
        if end - start > slots:
            skip = (end - slots) // self.block_size
            settings = self.settings
            heavy = min(int(settings.heavy * (end - start)), (slots - settings.sinks - 1) // 2)
            held = self.end - start if self.skip else 0
            # Queries before the last compression saw another layout.
            window = min(settings.window, at - start, at - self.at)
            yield Compression(at, start, end, held, slots, skip, max(heavy, 0), window)
            self.at, self.skip, self.end = at, skip, end


@lru_cache(maxsize=4096)
def make_plan(prompt_tokens: int, settings: Settings | None, block_size: int) -> Plan | None:
    """The plan of a request; None if no block would ever be freed."""
    if settings is None or settings.budget >= 1:
        return None
    plan = Plan(settings, prompt_tokens, block_size)
    return plan if plan.after(0) is not None else None
