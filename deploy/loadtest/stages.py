"""The stages of a load test, and the numbers of each."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count as numbers
from typing import Any

from deploy.loadtest.mix import KINDS, drawn
from deploy.loadtest.rounds import percentile
from deploy.loadtest.traffic import Outcome, Traffic

SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
ACCEPTED, IN_TIME = (
    0.99,
    0.9,
)  # of what is offered at a load within capacity: answered at all, within the stage


@dataclass(frozen=True)
class Stage:
    """One load: `rate` requests a second (an open loop) or `workers` clients (a closed one), for `seconds`.

    Attributes:
        burstiness: 1 for Poisson arrivals, less for bursts.
    """

    name: str
    seconds: float
    rate: float = 0.0
    workers: int = 0
    burstiness: float = 1.0

    def describe(self) -> str:
        if self.workers:
            return f"{self.workers} clients"
        return f"{self.rate:.1f} a second" + (", in bursts" if self.burstiness < 1 else "")


@dataclass
class Measured:
    """A stage and what became of its requests; `began` is in seconds after the run's start, like theirs."""

    stage: Stage
    outcomes: list[Outcome]
    began: float
    numbers: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        accepted = [outcome for outcome in self.outcomes if outcome.ok]
        refused = [outcome for outcome in self.outcomes if outcome.refused]
        ends = self.began + self.stage.seconds
        in_time = sum(outcome.at + outcome.seconds <= ends for outcome in accepted)
        self.numbers = {
            "sent": len(self.outcomes),
            "answered": len(accepted),
            "refused": len(refused),
            "failed": len(self.outcomes) - len(accepted) - len(refused),
            "offered_per_s": len(self.outcomes) / self.stage.seconds,
            "answered_per_s": in_time / self.stage.seconds,
            "latency": percentiles(outcome.seconds for outcome in accepted),
            "first": percentiles(outcome.first for outcome in accepted if outcome.first is not None),
            "gap": percentiles(gap for outcome in accepted for gap in outcome.gaps),
            "refusal": percentiles(outcome.seconds for outcome in refused),
        }

    def keeps_up(self) -> bool:
        """Whether nearly all requests were answered, and at the rate at which they came."""
        return (
            self.numbers["answered"] >= ACCEPTED * len(self.outcomes)
            and self.numbers["answered_per_s"] >= IN_TIME * self.numbers["offered_per_s"]
        )

    def by_kind(self) -> dict[str, dict[str, Any]]:
        found = {}
        for kind in KINDS:
            own = [outcome for outcome in self.outcomes if outcome.kind == kind.name]
            if own:
                found[kind.name] = Measured(self.stage, own, self.began).numbers
        return found


def percentiles(values: Iterable[float]) -> dict[str, float] | None:
    found = list(values)
    return {name: percentile(found, share) for name, share in SHARES.items()} if found else None


def p95(stages: Iterable[Measured]) -> float:
    """The 95th percentile of the seconds to whole answers over all these stages; infinite without any."""
    found = [outcome.seconds for measured in stages for outcome in measured.outcomes if outcome.ok]
    return percentile(found, 0.95) if found else float("inf")


class Silent(Exception):
    """Nothing of a stage, or nothing good, was answered: the server is gone, hangs or fails."""


class Runner:
    """Runs stages one after the other, each with requests of its own."""

    def __init__(self, client: Traffic) -> None:
        self.client = client
        self.seeds = numbers(1)
        self.measured: list[Measured] = []

    async def run(self, stage: Stage) -> Measured:
        """Run one stage to its last answer. Errors: Silent if none came; the stage is kept all the same."""
        seed = next(self.seeds)
        began = time.perf_counter() - self.client.start
        if stage.workers:
            await self.client.closed(drawn(20_000, seed), stage.workers, stage.seconds, stage.name)
        else:
            requests = drawn(max(1, round(stage.rate * stage.seconds)), seed)
            await self.client.open(requests, stage.rate, stage.name, stage.burstiness)
        before = len(self.client.outcomes)
        self.client.settle()
        measured = Measured(stage, self.client.outcomes[before:], began)
        self.measured.append(measured)
        if not any(outcome.status for outcome in measured.outcomes):
            raise Silent(stage.name)
        return measured
