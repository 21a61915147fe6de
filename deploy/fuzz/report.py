"""The report of a fuzzing run, as Markdown."""

from dataclasses import dataclass

from deploy.fuzz.campaign import KINDS, Tally

MOST_GROWTH = 0.05


@dataclass(frozen=True)
class Run:
    """A run: what was sent and came back, and what became of the server."""

    tally: Tally
    seed: int
    seconds: float
    memory_before: dict[str, int]
    memory_after: dict[str, int]
    growth: float
    alive: bool
    same_answer: bool

    def shortfalls(self) -> list[str]:
        """What is not as it must be, in words."""
        missed = [f"{found.check} failed: {found.operation}" for found in self.tally.findings.values()]
        missed += self.tally.errors
        if lost := sum(n for key, n in self.tally.answers.items() if key[2] == 0):
            missed.append(f"{lost} requests were not answered")
        if not self.alive:
            missed.append("the server does not answer as alive any more")
        if not self.same_answer:
            missed.append("the golden request is answered otherwise than before, or not at all")
        if self.growth > MOST_GROWTH:
            missed.append(f"resident memory grew by {self.growth:.1%}; allowed: {MOST_GROWTH:.0%}")
        return missed


def markdown(run: Run) -> str:
    """The report: counts by operation and status, memory, failures with a command line each."""
    tally = run.tally
    lines = [
        "# Fuzzing by the OpenAPI document",
        "",
        f"{tally.sent} requests in {run.seconds:.0f} s, seed {run.seed}.",
        "",
        "## Answers",
        "",
    ]
    operations = tally.by_operation()
    statuses = sorted({status for counts in operations.values() for status in counts})
    lines.append("| operation | " + " | ".join(str(status or "none") for status in statuses) + " |")
    lines.append("| --- |" + " --: |" * len(statuses))
    lines += [
        f"| `{operation}` | " + " | ".join(str(counts[status] or "") for status in statuses) + " |"
        for operation, counts in operations.items()
    ]
    lines += ["", "| requests to routes with a body | sent | answered 200 |", "| --- | --: | --: |"]
    for kind in KINDS:
        accepted, sent = tally.accepted(kind.name)
        lines.append(f"| {kind.name} | {sent} | {accepted} |")
    lines += [
        "",
        "## Memory",
        "",
        "| process | before, MiB | after, MiB | grown by |",
        "| --- | --: | --: | --: |",
    ]
    for name, before in run.memory_before.items():
        after = run.memory_after.get(name, 0)
        lines.append(f"| {name} | {before / 2**20:.0f} | {after / 2**20:.0f} | {after / before - 1:+.1%} |")
    lines += ["", "## Failures", ""]
    lines += [f"- {missed.splitlines()[0]}" for missed in run.shortfalls()] or ["None."]
    for found in tally.findings.values():
        lines += ["", f"### {found.operation}: {found.check}, {found.count} times", "", "```"]
        lines += [found.message, "", found.curl, "```"]
    return "\n".join(lines) + "\n"
