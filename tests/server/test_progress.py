"""When an engine counts as hanging, and how often it is started again: clocks in hand."""

import pytest

from server.backoff import Restarts
from server.progress import Pulse

LOOK = 0.5


def first_hang(pulse: Pulse, looks: int, requests: int = 1, prompt_tokens: int = 0, every: int = 0) -> float:
    """Seconds until the engine counts as hanging; it takes a step every so many looks. inf: it does not."""
    for look in range(1, looks + 1):
        steps = look // every if every else 7
        if pulse.hangs(steps, requests, prompt_tokens, LOOK):
            return look * LOOK
    return float("inf")


def test_requests_that_wait_for_longer_than_the_patience_without_a_step() -> None:
    assert first_hang(Pulse(10, 2, 500), 100) == pytest.approx(10, abs=2 * LOOK)


def test_an_idle_engine_does_not_hang() -> None:
    pulse = Pulse(10, 2, 500)
    assert first_hang(pulse, 1000, requests=0) == float("inf")
    assert first_hang(pulse, 100) == pytest.approx(10, abs=2 * LOOK), "idle time does not count"


def test_an_engine_that_steps_now_and_then_does_not_hang() -> None:
    assert first_hang(Pulse(10, 2, 500), 1000, every=int(9 / LOOK)) == float("inf")


def test_a_long_prompt_is_given_more() -> None:
    assert first_hang(Pulse(10, 2, 500), 1000, prompt_tokens=3 * 500) == pytest.approx(40, abs=2 * LOOK)


def test_time_in_which_the_server_itself_stood_still_is_not_the_engines() -> None:
    pulse = Pulse(10, 2, 500)
    assert not pulse.hangs(0, 1, 0, LOOK)
    assert not pulse.hangs(0, 1, 0, 3600)
    assert not pulse.hangs(0, 1, 0, 3600)
    assert first_hang(pulse, 100) < float("inf")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_no_restart_is_the_default() -> None:
    assert Restarts(0, 600).next() is None


@pytest.mark.parametrize("chance", [0.0, 0.999])
def test_waits_double_up_to_a_bound_and_vary_by_half(chance: float) -> None:
    restarts = Restarts(8, 600, Clock(), lambda: chance)
    waits = [restarts.next() for _ in range(8)]
    longest = [1, 2, 4, 8, 16, 30, 30, 30]
    assert waits == pytest.approx([most * (0.5 + chance / 2) for most in longest])
    assert restarts.next() is None


def test_the_window_slides() -> None:
    clock = Clock()
    restarts = Restarts(2, 600, clock, lambda: 1.0)
    assert [restarts.next(), restarts.next(), restarts.next()] == [1.0, 2.0, None]
    clock.now = 599
    assert restarts.next() is None
    clock.now = 601
    assert restarts.next() == 1.0, "both have left the window"
