"""Whether to speculate, by what it brings: tokens per second with and without drafts at the same load."""

import statistics
from collections import deque
from dataclasses import dataclass, field

Rate = float  # tokens per second

WINDOW = 32  # steps that a rate is taken over
TRIAL = 8  # steps of a trial that count
MARGIN = 0.03  # the other way must be better by this share to be taken
BUDGET = 0.01  # of the time, what trials that lose may cost
QUIET = 64  # steps between trials, at least; doubled whenever a trial changes nothing
LONGEST_QUIET = 4096  # steps
OUTLIER = 3.0  # a step that took this many times the median counts no more than that


@dataclass
class Window:
    """The last steps of one way, as (tokens, seconds)."""

    steps: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def rate(self, newest: int = WINDOW) -> Rate | None:
        """Over the newest steps; None where there are too few."""
        steps = list(self.steps)[-newest:]
        if len(steps) < TRIAL:
            return None
        most = OUTLIER * statistics.median(seconds for _, seconds in steps)
        seconds = sum(min(seconds, most) for _, seconds in steps)
        return sum(tokens for tokens, _ in steps) / seconds if seconds > 0 else None

    def loss(self, rate: Rate) -> float:
        """Seconds that as many steps as a trial has lose against the given rate."""
        steps = list(self.steps)[-TRIAL:]
        return max(0.0, sum(seconds for _, seconds in steps) - sum(tokens for tokens, _ in steps) / rate)


@dataclass
class Trial:
    """The other way, being measured."""

    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0
    counted: int = 0


@dataclass
class Load:
    """What is known of one load: so many rows in the batch."""

    rows: str
    drafting: bool
    windows: dict[bool, Window] = field(default_factory=lambda: {True: Window(), False: Window()})
    trial: Trial | None = None
    steps: int = 0  # since the last trial
    seconds: float = 0.0  # since the last trial
    quiet: int = QUIET  # steps before the next trial
    debt: float = 0.0  # seconds that the last trial lost


@dataclass(frozen=True)
class Decision:
    """The governor changed its mind at one load."""

    rows: str
    drafting: bool
    with_drafts: Rate
    without: Rate


class Governor:
    """Measures both ways in turn and keeps to the better one.

    Each load (1, 2, 3-4, 5-8, ... rows) is judged by itself. The better way runs; the other is tried for a
    few steps, no sooner than the time since has paid for what the last trial lost. A step counts for a way
    if it was the way of the step before as well (drafts are verified a step later) and held no prompt.

    It reads no clock: the caller measures.
    """

    def __init__(self) -> None:
        self.loads: dict[int, Load] = {}
        self.decisions: deque[Decision] = deque(maxlen=256)  # not read yet
        self.switches = 0
        self.counts = {"drafting": 0, "plain": 0, "trial": 0}  # steps
        self.last: tuple[bool, ...] = ()  # ways of the last two steps, the newest last

    def drafts(self, rows: int) -> bool:
        """Whether this step drafts; to be asked once a step, with the rows of the batch."""
        load = self._load(rows)
        if load.trial is None and self._is_due(load):
            load.trial = Trial()
        way = load.drafting if load.trial is None else not load.drafting
        self.counts["drafting" if way else "plain"] += 1
        self.counts["trial"] += load.trial is not None
        self.last = (*self.last, way)[-2:]
        return way

    def observe(self, rows: int, tokens: int, seconds: float, decoding: bool) -> None:
        """The step last asked for: its tokens, its time, and whether all its rows decoded."""
        load = self._load(rows)
        way = self.last[-1]
        steady = decoding and self.last == (way, way)
        if steady:
            load.windows[way].steps.append((tokens, seconds))
        if load.trial is None or way == load.drafting:
            load.steps += 1
            load.seconds += seconds
            return
        trial = load.trial
        trial.steps += 1
        if decoding:
            trial.tokens += tokens
            trial.seconds += seconds
        trial.counted += steady
        if trial.counted >= TRIAL:
            self._conclude(load, trial)
        elif trial.steps >= 8 * TRIAL:  # prompts or changing loads leave nothing to measure
            self._rest(load, trial)

    def interrupt(self) -> None:
        """A step came that neither drafted nor was asked about: the next ones are not steady."""
        self.last = ()

    def rates(self, load: Load) -> tuple[Rate | None, Rate | None]:
        """(with drafts, without) of one load; None where too little is known."""
        return load.windows[True].rate(), load.windows[False].rate()

    def take_decisions(self) -> list[Decision]:
        """Decisions since the last call."""
        taken = list(self.decisions)
        self.decisions.clear()
        return taken

    def _load(self, rows: int) -> Load:
        bucket = max(rows - 1, 0).bit_length()
        if bucket not in self.loads:
            near = min(self.loads, key=lambda other: abs(other - bucket), default=None)
            most = 1 << bucket
            name = str(most) if most <= 2 else f"{most // 2 + 1}-{most}"
            self.loads[bucket] = Load(name, near is None or self.loads[near].drafting)
        return self.loads[bucket]

    def _is_due(self, load: Load) -> bool:
        mine, other = load.windows[load.drafting].rate(), load.windows[not load.drafting].rate(TRIAL)
        if mine is None:
            return False
        if other is None:
            return load.steps >= TRIAL
        if load.drafting and mine * (1 + MARGIN) < other and load.steps >= 2 * TRIAL:
            return True  # losing, by what is known: look at once
        return load.steps >= load.quiet and load.seconds * BUDGET >= load.debt

    def _conclude(self, load: Load, trial: Trial) -> None:
        mine, other = load.windows[load.drafting].rate(), load.windows[not load.drafting].rate(TRIAL)
        if mine is None or other is None or other <= mine * (1 + MARGIN):
            self._rest(load, trial)
            return
        lost = load.windows[load.drafting]
        load.drafting = not load.drafting
        self.switches += 1
        rates = (other, mine) if load.drafting else (mine, other)
        self.decisions.append(Decision(load.rows, load.drafting, *rates))
        load.trial, load.steps, load.seconds, load.quiet = None, 0, 0.0, QUIET
        load.debt = lost.loss(other)  # what the next trial will lose, if nothing changes

    def _rest(self, load: Load, trial: Trial) -> None:
        """Nothing changes; the time that the trial lost must be earned before the next one."""
        rate = load.windows[load.drafting].rate()
        load.debt = max(0.0, trial.seconds - trial.tokens / rate) if rate else trial.seconds
        load.quiet = min(2 * load.quiet, LONGEST_QUIET)
        load.trial, load.steps, load.seconds = None, 0, 0.0
