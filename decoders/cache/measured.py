"""What a worker has compressed and how long it took, kept until the server asks."""

from dataclasses import dataclass, field
from typing import Any

MOST = 1024  # requests that have not asked yet (one that was aborted never does), and compressions


@dataclass
class Done:
    """One compression of one request, all layers together. seconds: on a GPU, of launching the work."""

    report: str | None
    freed: int
    seconds: float = 0.0


@dataclass
class Measured:
    """Totals since the engine's start, the seconds not yet taken, and what reports will ask."""

    compressions: int = 0
    freed: int = 0
    seconds: list[float] = field(default_factory=list)
    reports: dict[str, dict[str, float]] = field(default_factory=dict)
    _open: dict[tuple[int, int], Done] = field(default_factory=dict)  # by request and place

    def add(self, request: int, at: int, report: str | None, freed: int, seconds: float) -> None:
        """One layer's share of the compression of a request at `at` tokens, which frees `freed` blocks."""
        self._open.setdefault((request, at), Done(report, freed)).seconds += seconds

    def settle(self) -> None:
        """The step is over: what was compressed in it has been in all layers."""
        for done in self._open.values():
            self.compressions += 1
            self.freed += done.freed
            self.seconds = [*self.seconds[-MOST:], done.seconds]
            if done.report is not None:
                self._report(done.report, done)
        self._open.clear()

    def _report(self, key: str, done: Done) -> None:
        if key not in self.reports and len(self.reports) >= MOST:
            self.reports.pop(next(iter(self.reports)))
        entry = self.reports.setdefault(key, {"compressions": 0, "freed_blocks": 0, "seconds": 0.0})
        entry["compressions"] += 1
        entry["freed_blocks"] += done.freed
        entry["seconds"] += done.seconds

    def take(self) -> dict[str, Any]:
        """Totals, and the seconds of each compression since the last call."""
        self.settle()
        seconds, self.seconds = self.seconds, []
        return {"compressions": self.compressions, "freed_blocks": self.freed, "seconds": seconds}

    def take_report(self, key: str) -> dict[str, float] | None:
        """What was done for the requests of this report key, and forget it; None if nothing was."""
        self.settle()
        return self.reports.pop(key, None)
