"""Times ways of doing one thing in interleaved rounds, so that a machine's moods fall on all of them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

BURST = 0.03  # seconds of calls in a row, at most 15 calls


@dataclass(frozen=True)
class Way:
    """One way of doing it. call(i) works on the i-th set of buffers; reset(i) restores it, untimed."""

    call: Callable[[int], object]
    reset: Callable[[int], object] | None = None


@dataclass
class Times:
    """Seconds of each round, by way."""

    rounds: dict[str, list[float]] = field(default_factory=dict)

    def best(self, way: str) -> float:
        return min(self.rounds[way])

    def median(self, way: str) -> float:
        return statistics.median(self.rounds[way])

    def ratio(self, slow: str, fast: str) -> float:
        """How many times as long `slow` takes: the median over rounds."""
        pairs = zip(self.rounds[slow], self.rounds[fast], strict=True)
        return statistics.median(one / other for one, other in pairs)


def measure(ways: dict[str, Way], device: str, sets: int, rounds: int, seconds: float) -> Times:
    """Interleaved rounds; at least 3, else as many as fit in `seconds`.

    The time of a way in a round is the median of several calls in a row: a short call right after another
    way's would be timed while the system still wakes this one's threads.
    """
    clock = _cuda_clock if device == "cuda" else _cpu_clock
    repeats = {}
    for name, way in ways.items():
        _timed(way, clock, 0)
        repeats[name] = min(max(int(BURST / _timed(way, clock, 0)), 1), 15)
    times = Times({name: [] for name in ways})
    began = time.perf_counter()
    for turn in range(rounds):
        for name, way in ways.items():
            calls = [_timed(way, clock, (turn + i) % sets) for i in range(repeats[name])]
            times.rounds[name].append(statistics.median(calls))
        if turn >= 2 and time.perf_counter() - began > seconds:
            break
    return times


def _timed(way: Way, clock: Callable[[Callable[[int], object], int], float], buffers: int) -> float:
    if way.reset:
        way.reset(buffers)
    return clock(way.call, buffers)


def _cpu_clock(call: Callable[[int], object], buffers: int) -> float:
    began = time.perf_counter()
    call(buffers)
    return time.perf_counter() - began


def _cuda_clock(call: Callable[[int], object], buffers: int) -> float:
    """Seconds on the device between two events; the host runs ahead of it behind a filler kernel."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000)
    start.record()
    call(buffers)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000
