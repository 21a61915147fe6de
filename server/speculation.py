"""What speculation brought: in a request's report, and in the metrics of each engine that speculates."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from decoders.deployment import Deployment
from decoders.report import Report
from server.metrics import METRICS
from server.watching import Watch, count_up

logger = logging.getLogger("decant.speculation")


class Acceptance:
    """Counts over the verified drafts of one request, all its choices together."""

    def __init__(self) -> None:
        self.steps = 0  # that verified a draft
        self.choices = 0
        self.drafted: list[int] = []  # tokens, by position in the draft
        self.accepted: list[int] = []

    def add(self, metrics: Any) -> None:
        """One choice that has ended. metrics: vLLM's RequestSpecDecodeMetrics, detailed."""
        self.choices += 1
        self.steps += len(metrics.per_step_drafted)
        for counts, lengths in (
            (self.drafted, metrics.per_step_drafted),
            (self.accepted, metrics.per_step_accepted),
        ):
            counts += [0] * (metrics.num_spec_tokens - len(counts))
            for length in lengths:
                for position in range(length):
                    counts[position] += 1

    def describe(self, method: str, tokens: int) -> dict[str, Any]:
        """For the report. tokens: of the whole answer.

        Every step gives one token of the model's own beside those accepted. Steps that verified no draft, the
        prompt's among them, gave one token each; a stop may have cut the last step's tokens short.
        """
        accepted = sum(self.accepted)
        steps = self.steps + max(self.choices, tokens - self.steps - accepted)
        return {
            "method": method,
            "steps": steps,
            "tokens_per_step": round(tokens / steps, 3) if steps else None,
            "drafted_tokens": sum(self.drafted),
            "accepted_tokens": accepted,
            "drafted_per_position": self.drafted,
            "accepted_per_position": self.accepted,
        }

    def settle(self, engine: str, method: str, tokens: int, report: Report) -> None:
        """Put it into the report and the metrics."""
        described = self.describe(method, tokens)
        report.layer("sequence")["speculative"] = described
        if described["tokens_per_step"] is not None:
            METRICS.speculation_tokens_per_step.labels(engine).observe(described["tokens_per_step"])


def watch(engines: Mapping[str, Any], deployment: Deployment) -> Watch:
    """What asks the engines that speculate what their governors do: for metrics, and a log line each time."""
    asked = {
        name: engines[name] for name, facts in deployment.engines.items() if facts.speculative is not None
    }
    return Watch(asked, "decant_speculation", _show_all)


def _show_all(engine: str, answers: Sequence[Mapping[str, Any] | None]) -> None:
    for state in filter(None, answers):
        show(engine, state)


def show(engine: str, state: Mapping[str, Any]) -> None:
    """Metrics and log lines of what one engine said."""
    if "stop" in state:
        METRICS.speculation_stop.labels(engine).set(state["stop"])
    if "switches" not in state:  # ungoverned: it always speculates
        METRICS.speculation_drafting.labels(engine).set(1)
        return
    METRICS.speculation_drafting.labels(engine).set(state["drafting"])
    count_up(METRICS.speculation_switches, (engine,), state["switches"])
    for kind, steps in state["steps"].items():
        count_up(METRICS.speculation_steps, (engine, kind), steps)
    for rows, load in state["loads"].items():
        METRICS.speculation_chosen.labels(engine, rows).set(load["drafting"])
        for way, rate in (("drafting", load["with_drafts"]), ("plain", load["without"])):
            if rate is not None:
                METRICS.speculation_rate.labels(engine, rows, way).set(rate)
    for decision in state["decisions"]:
        logger.info(
            "engine %s: speculation %s at %s rows: %.1f tokens/s with drafts, %.1f without",
            engine,
            "on" if decision["drafting"] else "off",
            decision["rows"],
            decision["with_drafts"],
            decision["without"],
        )
