"""Load with mixed methods: latency against load, capacity, three times that, recovery, no request lost.

Run from the repository root: `.venv/bin/python -m deploy.loadtest.stress --help`, or `make loadtest`. The
README beside this file says what is measured and which criteria decide the exit status.
"""

import argparse
import asyncio
import os
import secrets
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from deploy.loadtest.criteria import Evidence, judge
from deploy.loadtest.report import machine
from deploy.loadtest.servers import Failure, Server, embedded_models
from deploy.loadtest.stages import Measured, Runner, Silent, Stage
from deploy.loadtest.stress_report import write
from deploy.loadtest.traffic import traffic
from deploy.loadtest.watch import counts, logged, moved, watching

CLOSED = (1, 4, 16, 64)
RAMP = (0.4, 0.55, 0.7, 0.775, 0.85, 0.925, 1.0)  # of the best closed loop's rate; finer where capacity lies
OVERLOAD = 3.0
CALM, BUSY, BURSTINESS = 0.4, 0.5, 0.3
PAIRS = 3
COUNTED = 30.0  # seconds that the server has to tell its own count in the end
RUNNING, WAITING = 8, 4  # a core: from here on more requests at once give no more answers a second


@dataclass(frozen=True)
class Plan:
    """Seconds of the run's parts; in sum about `minutes`."""

    closed: float
    step: float
    overload: float
    steady: float

    @classmethod
    def of(cls, minutes: float) -> "Plan":
        total = minutes * 60
        closed, step, overload = 0.03 * total, 0.05 * total, 0.1 * total
        spent = len(CLOSED) * closed + (len(RAMP) + 2) * step + 2 * overload
        return cls(closed, step, overload, total - spent)


async def play(runner: Runner, plan: Plan) -> dict[str, list[Measured]]:
    """All stages, by what they are for."""
    await runner.run(Stage("warm-up", max(2.0, plan.closed / 2), workers=4))
    closed = [
        await runner.run(Stage(f"closed loop {workers}", plan.closed, workers=workers)) for workers in CLOSED
    ]
    best = max(measured.numbers["answered_per_s"] for measured in closed)
    if not best:
        raise Silent(closed[-1].stage.name)
    ramp = [await runner.run(Stage(f"ramp {share:g}", plan.step, best * share)) for share in RAMP]
    capacity = ([measured for measured in ramp if measured.keeps_up()] or ramp[:1])[-1].stage.rate
    half = plan.steady / 2
    steady = [await runner.run(Stage("steady", half, capacity * BUSY))]
    before = await runner.run(Stage("calm, before", plan.step, capacity * CALM))
    at, over = [], []
    for _ in range(PAIRS):  # what is compared lies side by side: the machine is not the same all the time
        at.append(await runner.run(Stage("capacity", plan.overload / PAIRS, capacity)))
        over.append(await runner.run(Stage("overload", plan.overload / PAIRS, capacity * OVERLOAD)))
    after = await runner.run(Stage("calm, after", plan.step, capacity * CALM))
    steady.append(await runner.run(Stage("bursts", half, capacity * BUSY, burstiness=BURSTINESS)))
    return {
        "closed": closed,
        "ramp": ramp,
        "capacity": at,
        "overload": over,
        "calm": [before, after],
        "steady": steady,
    }


async def measure(url: str, key: str | None, server: Server | None, plan: Plan) -> Evidence:
    """Put the whole load on one server."""
    run = f"load-{secrets.token_hex(4)}"
    async with traffic(url, run, key) as client:
        before = await counts(client.session)
        runner = Runner(client)
        async with watching(server.process.pid if server else None, client.start) as looks:
            stages: dict[str, list[Measured]] = {}
            with suppress(Silent):  # what there is says so, and is reported
                stages = await play(runner, plan)
        counted: Counter[tuple[str, str]] | None = None
        with suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(COUNTED):
                counted = await moved(client.session, before, client.sent)
    lines = logged(server.log, run) if server else None
    return Evidence(stages, runner.measured, client.outcomes, client.sent, counted, lines, looks)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", help="a running server's; left out, one with the embedded models is started")
    parser.add_argument("--minutes", type=float, default=6.0, help="length of the run (6); 30 for a long one")
    cores = len(os.sched_getaffinity(0))
    limits = f"--limits.concurrent-requests {RUNNING * cores} --limits.queued-requests {WAITING * cores}"
    parser.add_argument(
        "--flags", default=limits, help=f"flags of the server that is started, as one text ({limits})"
    )
    parser.add_argument("--out", type=Path, default=Path("loadtest-result"), help="folder for the report")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error("--minutes: must be greater than 0")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all criteria hold, 1 some do not, 2 the run could not be made."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    key, around = os.environ.get("DECANT_API_KEY"), machine()
    try:
        with ExitStack() as stack:
            server, url = None, options.url
            if url is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loadtest-")))
                flags = ["--log-format", "json", *options.flags.split()]
                server = stack.enter_context(embedded_models(folder, *flags))
                url, key = server.url, None
            evidence = asyncio.run(measure(url, key, server, Plan.of(options.minutes)))
    except (Failure, aiohttp.ClientError) as failure:
        print(f"loadtest: {failure}", file=sys.stderr)
        return 2
    verdicts = judge(evidence)
    around |= {"minutes": options.minutes, "flags": options.flags}
    print(write(options.out, around, evidence, verdicts))
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
