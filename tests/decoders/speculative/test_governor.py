"""The governor on machines whose costs are known: no clock, no engine."""

import random
from collections.abc import Callable

import pytest

from decoders.speculative.governor import QUIET, TRIAL, Governor


class Machine:
    """Steps of known cost. slow: a drafting step's time beside a plain one's. gain: its tokens a row."""

    def __init__(self, slow: float, gain: float, noise: float = 0.0, seed: int = 0) -> None:
        self.governor = Governor()
        self.slow, self.gain, self.noise = slow, gain, noise
        self.random = random.Random(seed)
        self.tokens, self.seconds, self.owed = 0, 0.0, 0.0
        self.before = False  # whether the step before drafted: its drafts are verified now

    def run(self, steps: int, rows: int = 4, decoding: Callable[[int], bool] = lambda _: True) -> float:
        """Tokens per second of these steps, where a plain step takes 0.01 s."""
        tokens, seconds = self.tokens, self.seconds
        for step in range(steps):
            drafts = self.governor.drafts(rows)
            # Verifying and drafting each cost half of what a drafting step takes beyond a plain one.
            took = 0.01 * (1 + (self.slow - 1) * (drafts + self.before) / 2)
            took *= 1 + abs(self.random.gauss(0, self.noise))
            if self.random.random() < self.noise / 10:
                took *= 10
            self.owed += rows * (self.gain if self.before else 1.0)
            made, self.owed = int(self.owed), self.owed - int(self.owed)
            self.before = drafts
            self.tokens += made
            self.seconds += took
            self.governor.observe(rows, made, took, decoding(step))
        return (self.tokens - tokens) / (self.seconds - seconds)


def plain(rows: int = 4) -> float:
    return rows / 0.01


@pytest.mark.parametrize("slow", [1.2, 2.0, 5.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_while_drafts_lose_it_does_without(slow: float, noise: float) -> None:
    machine = Machine(slow, 1.05, noise)
    fair = plain() / (1 + 0.8 * noise + (0.9 * noise if noise else 0))  # what the noise costs anyone
    assert machine.run(4000) >= (0.95 if not noise else 0.9) * fair
    assert machine.run(4000) >= (0.97 if not noise else 0.9) * fair
    assert machine.governor.switches == 1
    assert not machine.before or machine.governor.loads[2].trial is not None


@pytest.mark.parametrize(("slow", "gain"), [(1.5, 3.0), (2.0, 2.5), (1.2, 1.6)])
def test_while_drafts_win_it_drafts(slow: float, gain: float) -> None:
    machine = Machine(slow, gain)
    assert machine.run(4000) >= 0.97 * plain() * gain / slow
    assert machine.governor.switches == 0


def test_it_follows_when_drafts_become_bad_and_good_again() -> None:
    machine = Machine(1.5, 3.0)
    machine.run(2000)
    machine.gain = 1.0
    assert machine.run(1000) >= 0.93 * plain()
    assert [one.drafting for one in machine.governor.take_decisions()] == [False]
    machine.gain = 3.0
    machine.run(QUIET * 20)  # it looks seldom while it loses
    assert machine.run(1000) >= 0.95 * plain() * 2
    (decision,) = machine.governor.take_decisions()
    assert decision.drafting
    assert decision.with_drafts == pytest.approx(800, rel=0.1)
    assert decision.without == pytest.approx(400, rel=0.1)
    assert machine.governor.take_decisions() == []
    assert machine.governor.switches == 2


def test_trials_cost_little_and_become_rarer() -> None:
    machine = Machine(6.0, 1.0)
    machine.run(3000)
    before = machine.governor.counts["trial"]
    assert machine.run(20_000) >= 0.975 * plain()
    assert 0 < machine.governor.counts["trial"] - before < 200


def test_near_the_break_even_it_does_not_flutter() -> None:
    machine = Machine(1.5, 1.5, noise=0.02)
    machine.run(20_000)
    assert machine.governor.switches <= 6


def test_each_load_is_judged_by_itself() -> None:
    machine = Machine(1.5, 3.0)
    machine.run(500, rows=1)
    machine.gain = 1.0
    machine.run(500, rows=40)
    machine.gain = 3.0
    machine.run(50, rows=1)
    loads = {load.rows: load.drafting for load in machine.governor.loads.values()}
    assert loads == {"1": True, "33-64": False}
    # A load not met before begins with what the nearest one does.
    machine.governor.drafts(100)
    assert machine.governor.loads[7].drafting is False


def test_steps_with_prompts_are_not_compared() -> None:
    machine = Machine(3.0, 1.0)
    machine.run(500, decoding=lambda _: False)
    assert machine.governor.switches == 0
    assert machine.governor.rates(machine.governor.loads[2]) == (None, None)
    machine.run(500, decoding=lambda step: step % 2 == 0)
    assert machine.governor.switches == 1


def test_an_interruption_is_not_steady() -> None:
    governor = Governor()
    for _ in range(10 * TRIAL):
        governor.drafts(1)
        governor.observe(1, 1, 0.01, True)
        governor.interrupt()
    assert governor.rates(governor.loads[0]) == (None, None)
