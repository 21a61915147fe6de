"""The report of a load test with mixed methods: Markdown, plots as SVG, and the numbers as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt

from deploy.loadtest.criteria import Evidence, Verdict
from deploy.loadtest.stages import Measured

TIMES = {"latency": "end to end", "first": "to first token", "gap": "between tokens"}


def write(folder: Path, around: dict[str, Any], evidence: Evidence, verdicts: Sequence[Verdict]) -> str:
    """Write stress.md, stress.json and the plots into `folder`; the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = [plot_load(evidence, folder), plot_kinds(evidence, folder)] if evidence.stages else []
    if evidence.looks:
        plots.append(plot_memory(evidence, folder))
    text = markdown(around, evidence, verdicts, [path.name for path in plots])
    (folder / "stress.md").write_text(text, encoding="utf-8")
    stages = [
        {"name": m.stage.name, "load": m.stage.describe(), **m.numbers, "kinds": m.by_kind()}
        for m in evidence.all_stages
    ]
    judged = [{"asks": v.asks, "found": v.found, "holds": v.holds} for v in verdicts]
    data = json.dumps({"surroundings": around, "verdicts": judged, "stages": stages}, indent=1)
    (folder / "stress.json").write_text(data + "\n", encoding="utf-8")
    return text


def markdown(
    around: dict[str, Any], evidence: Evidence, verdicts: Sequence[Verdict], plots: Sequence[str]
) -> str:
    """The report as Markdown."""
    capacity = "**not found**"
    kinds: dict[str, dict[str, Any]] = {}
    if evidence.stages:
        capacity = f"**{evidence.stages['capacity'][0].stage.rate:.1f} requests a second**"
        kinds = evidence.stages["steady"][0].by_kind()
    lines = [
        "# Load with mixed methods",
        "",
        f"{around['date']}; {around['cpu']}, {around['cores']} cores, {around['memory_gib']} GiB; "
        f"{', '.join(around['versions'])}; {around['minutes']:g} minutes; "
        f"flags: `{around['flags'] or 'none'}`; "
        f"load averages before: {around['load_before']}. The client runs on the same machine.",
        "",
        f"Capacity by the ramp: {capacity}. {evidence.sent} requests were sent.",
        "",
        "| criterion | found | |",
        "| --- | --- | --- |",
        *(f"| {v.asks} | {v.found} | {'holds' if v.holds else '**does not hold**'} |" for v in verdicts),
        "",
        "## Stages",
        "",
        "| stage | load | sent | answered | refused | failed | answered a second | p50, p95, p99 s "
        "| TTFT p50, p95 s | inter-token p50, p95 ms | refused p50, p95 ms |",
        "| --- | --- | --: | --: | --: | --: | --: | --- | --- | --- | --- |",
        *(_row(measured) for measured in evidence.all_stages),
        "",
        "## Methods, at the first steady load",
        "",
        "| kind of request | sent | p50, p95, p99 s | TTFT p50, p95 s | inter-token p50, p95 ms |",
        "| --- | --: | --- | --- | --- |",
        *(_kind_row(name, found) for name, found in kinds.items()),
        "",
        *(f"![{Path(name).stem}]({name})\n" for name in plots),
    ]
    return "\n".join(lines)


def _of(found: dict[str, float] | None, names: Sequence[str], scale: float = 1.0, digits: int = 2) -> str:
    return ", ".join(f"{found[name] * scale:.{digits}f}" for name in names) if found else ""


def _row(measured: Measured) -> str:
    n = measured.numbers
    cells = [
        measured.stage.name,
        measured.stage.describe(),
        n["sent"],
        n["answered"],
        n["refused"],
        n["failed"],
    ]
    cells += [f"{n['answered_per_s']:.1f}", *_times(n), _of(n["refusal"], ("p50", "p95"), 1e3, 0)]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _kind_row(name: str, numbers: dict[str, Any]) -> str:
    return "| " + " | ".join([name, str(numbers["sent"]), *_times(numbers)]) + " |"


def _times(numbers: dict[str, Any]) -> list[str]:
    return [
        _of(numbers["latency"], ("p50", "p95", "p99")),
        _of(numbers["first"], ("p50", "p95")),
        _of(numbers["gap"], ("p50", "p95"), 1e3, 0),
    ]


# ---- plots -----------------------------------------------------------------------------------------------


def plot_load(evidence: Evidence, folder: Path) -> Path:
    """Latencies over the load of the ramp and the overload."""
    open_loops = [*evidence.stages["ramp"], *evidence.stages["overload"]]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, (name, title) in zip(axes, TIMES.items(), strict=True):
        for share, style in (("p50", "o-"), ("p95", "s--"), ("p99", "^:")):
            points = [(m.stage.rate, m.numbers[name][share]) for m in open_loops if m.numbers[name]]
            axis.plot(*zip(*points, strict=True), style, label=share)
        axis.axvline(evidence.stages["capacity"][0].stage.rate, color="grey", lw=0.8)
        axis.set(title=title, xlabel="requests a second", ylabel="seconds", ylim=0)
    axes[0].legend()
    return _save(figure, folder / "stress-load.svg")


def plot_kinds(evidence: Evidence, folder: Path) -> Path:
    """Latencies by kind of request: at the first steady load and under overload."""
    steady, overload = evidence.stages["steady"][0].by_kind(), evidence.stages["overload"][0].by_kind()
    figure, axis = plt.subplots(figsize=(10, 4), layout="constrained")
    places = range(len(steady))
    for shift, (title, found) in zip((-0.2, 0.2), (("steady", steady), ("overload", overload)), strict=True):
        for share, color in (("p95", "tab:orange"), ("p50", "tab:blue")):
            heights = [(found.get(name, {}).get("latency") or {}).get(share, 0) for name in steady]
            where = [place + shift for place in places]
            axis.bar(
                where, heights, 0.38, color=color, alpha=1 if shift < 0 else 0.55, label=f"{title}, {share}"
            )
    axis.set_xticks(list(places), list(steady), rotation=20, ha="right")
    axis.set(ylabel="seconds, end to end")
    axis.legend()
    return _save(figure, folder / "stress-methods.svg")


def plot_memory(evidence: Evidence, folder: Path) -> Path:
    """Resident memory of each process over time, with the stages marked."""
    figure, axis = plt.subplots(figsize=(10, 3.6), layout="constrained")
    for name in evidence.looks[0].memory:
        points = [(look.at, look.memory[name] / 2**20) for look in evidence.looks if name in look.memory]
        axis.plot(*zip(*points, strict=True), label=name)
    for measured in evidence.all_stages:
        axis.axvline(measured.began, color="grey", lw=0.5)
    axis.set(xlabel="seconds", ylabel="resident MiB", ylim=0)
    axis.legend()
    return _save(figure, folder / "stress-memory.svg")


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path)
    plt.close(figure)
    return path
