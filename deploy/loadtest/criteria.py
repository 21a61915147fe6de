"""What must hold of a load test, judged by its evidence."""

from collections import Counter
from dataclasses import dataclass
from statistics import median

from deploy.loadtest.stages import ACCEPTED, Measured, p95, percentiles
from deploy.loadtest.traffic import Outcome
from deploy.loadtest.watch import Look

SLOWER, AT_ONCE, RECOVERED, GROWTH = 2.0, 0.1, 1.5, 0.05


@dataclass(frozen=True)
class Evidence:
    """What a run left behind.

    Attributes:
        stages: measured stages by what they are for, empty if the server stopped answering before the last;
            `all_stages` in the order of the run.
        counted: the server's own count of POST requests by route and status, over the run; None if it did not
            tell it in the end.
        lines: its log's lines about this run's requests by id and status; None if its log cannot be read.
        looks: its memory over time; empty if it cannot be seen.
    """

    stages: dict[str, list[Measured]]
    all_stages: list[Measured]
    outcomes: list[Outcome]
    sent: int
    counted: Counter[tuple[str, str]] | None
    lines: Counter[tuple[str, int]] | None
    looks: list[Look]


@dataclass(frozen=True)
class Verdict:
    """One criterion: what it asks, what was found."""

    asks: str
    found: str
    holds: bool


def judge(evidence: Evidence) -> list[Verdict]:
    """Every criterion's verdict."""
    verdicts = accounts(evidence.outcomes, evidence.sent, evidence.counted, evidence.lines)
    if not evidence.stages:
        found = f"no good answer in the stage '{evidence.all_stages[-1].stage.name}'"
        return [Verdict("the server answers to the end", found, False), *verdicts]
    within = [m for name in ("calm", "steady") for m in evidence.stages[name]]
    for asks, most, bursts in (
        ("no refusals well within capacity", 0.0, False),
        (f"at most {1 - ACCEPTED:.0%} refused where the same load comes in bursts", 1 - ACCEPTED, True),
    ):
        of_these = [m for m in within if (m.stage.burstiness < 1) == bursts]
        refused, sent = (sum(m.numbers[name] for m in of_these) for name in ("refused", "sent"))
        verdicts.append(Verdict(asks, f"{refused} of {sent}", refused <= most * sent))
    verdicts += _overload(evidence)
    if evidence.looks:
        verdicts.append(_memory(evidence))
    return verdicts


def accounts(
    outcomes: list[Outcome],
    sent: int,
    counted: Counter[tuple[str, str]] | None,
    lines: Counter[tuple[str, int]] | None,
) -> list[Verdict]:
    """Whether every request came to one proper end, and the server's books say the same; see `Evidence`."""
    errors = Counter(o.error or "?" for o in outcomes if not o.ok and not o.refused)
    ids = {outcome.id for outcome in outcomes}
    ours = Counter((outcome.route, str(outcome.status)) for outcome in outcomes)
    booked: Counter[tuple[str, str]] = Counter() if counted is None else counted
    differing = {key: (ours[key], booked[key]) for key in ours | booked if ours[key] != booked[key]}
    compared = "its metrics were not to be had" if counted is None else str(differing or "equal")
    verdicts = [
        Verdict("no unexpected errors", f"{errors.total()} {dict(errors) or ''}".strip(), not errors),
        Verdict(
            "every request sent has one outcome",
            f"{len(ids)} ids of {sent} sent",
            len(ids) == len(outcomes) == sent,
        ),
        Verdict(
            "the server counted the same, by route and status",
            compared,
            counted is not None and not differing,
        ),
    ]
    if lines is not None:
        expected = Counter((outcome.id, outcome.status) for outcome in outcomes)
        missing, extra = expected - lines, lines - expected
        found = f"{missing.total()} missing, {extra.total()} too many"
        asks = "the server's log has each id once, with its status"
        verdicts.append(Verdict(asks, found, not missing and not extra))
    return verdicts


def _overload(evidence: Evidence) -> list[Verdict]:
    before, after = evidence.stages["calm"]
    at, over = (p95(evidence.stages[name]) for name in ("capacity", "overload"))
    refused = [o.seconds for m in evidence.stages["overload"] for o in m.outcomes if o.refused]
    refusal = percentiles(refused)
    back = p95([after]) / p95([before])
    return [
        Verdict(
            f"at three times capacity, accepted requests' p95 is within {SLOWER:g} times that at capacity",
            f"{over:.2f} s and {at:.2f} s: {over / at:.2f}",
            over <= SLOWER * at,
        ),
        Verdict(
            f"the rest are refused at once: half of them within {AT_ONCE * 1e3:.0f} ms",
            f"{len(refused)} refused, {_milliseconds(refusal)}",
            refusal is not None and refusal["p50"] <= AT_ONCE,
        ),
        Verdict(
            f"afterwards p95 is within {RECOVERED:g} times what it was before, at the same load",
            f"{p95([before]):.2f} s before, {p95([after]):.2f} s after: {back:.2f}",
            back <= RECOVERED,
        ),
    ]


def _milliseconds(found: dict[str, float] | None) -> str:
    return f"p50 {found['p50'] * 1e3:.0f} ms, p95 {found['p95'] * 1e3:.0f} ms" if found else "no times"


def _memory(evidence: Evidence) -> Verdict:
    """Between the first and the last part of the steady load; what comes before is caches being filled."""
    first, last = evidence.stages["steady"]
    early, late = (
        _typical(evidence.looks, m.began + m.stage.seconds / 2, m.began + m.stage.seconds)
        for m in (first, last)
    )
    grown = {name: late[name] / used - 1 for name, used in early.items() if name in late}
    found = ", ".join(f"{name} {share:+.1%}" for name, share in grown.items())
    return Verdict(
        f"memory grows by at most {GROWTH:.0%} from the first steady load to the last",
        found,
        bool(grown) and len(grown) == len(early) and max(grown.values()) <= GROWTH,
    )


def _typical(looks: list[Look], since: float, until: float) -> dict[str, float]:
    within = [look.memory for look in looks if since <= look.at <= until]
    names = set.intersection(*(set(memory) for memory in within)) if within else set()
    return {name: median(memory[name] for memory in within) for name in sorted(names)}
