"""The result as files: JSON, CSV, Markdown, and a drawing."""

import csv
import io
import json
import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from server.bench import show
from server.bench.choice import Choice
from server.bench.statistic import Estimate
from server.bench.summary import Row, Summary
from server.calibration.errors import CalibrationError

FORMAT = "decant bench result 1"


def write(path: Path, text: str) -> None:
    """Raises CalibrationError if it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise CalibrationError(f"{path} cannot be written: {error.strerror}") from error


def as_json(summary: Summary, choice: Choice) -> str:
    """Everything: figures with their intervals, each question's score, what was refused, the choice."""
    found = {
        "format": FORMAT,
        "date": date.today().isoformat(),
        "task": summary.task,
        "measure": summary.measure,
        "unit": summary.unit,
        "questions": [{"where": where, "kind": kind} for where, kind in summary.asked],
        "turns": summary.turns,
        "concurrency": summary.concurrency,
        "server": dict(summary.server),
        "settings": [_row(row) for row in summary.rows],
        "refused": dict(summary.refused),
        "chosen": {"name": choice.row.name, "reasons": list(choice.reasons)},
    }
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def _row(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        **row.setting.model_dump(exclude={"name"}),
        "on_frontier": row.on_frontier,
        "quality": _estimate(row.quality),
        "less_plain": _estimate(row.gain),
        "less_plain_all_at_once": _estimate(row.gain_sure),
        "generated_tokens": row.generated,
        "computed_tokens": row.computed,
        "engines": dict(row.engines),
        "kv_kept": row.kept,
        "latency_seconds": row.latency,
        "engine_seconds": row.seconds,
        "cost": row.cost,
        "times_plain": _estimate(row.times),
        "times_plain_all_at_once": _estimate(row.times_sure),
        "rounds": row.rounds,
        "cut": row.cut,
        "unsearched": row.unsearched,
        "scores": list(row.scores),
    }


def _estimate(estimate: Estimate | None) -> dict[str, float | None] | None:
    """JSON has no infinity: an end that is not known is null."""
    if estimate is None:
        return None
    ends = {"low": estimate.low, "high": estimate.high}
    return {"value": estimate.value, **{k: v if math.isfinite(v) else None for k, v in ends.items()}}


def as_csv(summary: Summary) -> str:
    """One line a setting, refused ones with the server's words alone."""
    lines = []
    for row in summary.rows:
        flat: dict[str, Any] = {}
        for name, value in _row(row).items():
            if name in ("scores", "decoding", "request", "engines"):
                flat[name] = json.dumps(value)
            elif name in ("quality", "less_plain", "less_plain_all_at_once") or name.startswith(
                "times_plain"
            ):
                ends = value or dict.fromkeys(("value", "low", "high"))
                flat |= {name: ends["value"], f"{name}_low": ends["low"], f"{name}_high": ends["high"]}
            else:
                flat[name] = value
        lines.append({**flat, "refused": ""})
    lines += [{"name": name, "refused": message} for name, message in summary.refused.items()]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def as_markdown(summary: Summary, choice: Choice) -> str:
    """The table, what its columns mean, and the choice."""
    titles = show.header(summary)
    lines = [
        _line(titles),
        "|" + "|".join("---" if i in (0, 1, 6) else "--:" for i in range(len(titles))) + "|",
    ]
    lines += [_line(show.cells(summary, index)) for index in range(len(summary.rows))]
    said = [*show.notes(summary), show.frontier(summary), f"**Take {choice.row.name}.**", *choice.reasons]
    return "\n".join(lines) + "\n\n" + "\n\n".join(one for one in said if one) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def draw(summary: Summary, choice: Choice, path: Path) -> None:
    """Quality against cost over plain's, with 95% intervals and the frontier.

    Raises CalibrationError where no cost is above 0 and known, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    placed = [
        (show.mark(index), row, row.times)
        for index, row in enumerate(summary.rows)
        if row.times is not None and row.times.value > 0
    ]
    if not placed:
        raise CalibrationError(f"plot: {show.uncompared(summary)}")
    for mark, row, cost in placed:
        across = _arms(cost) if cost.is_known else None
        colour = "tab:orange" if row is choice.row else "tab:blue" if row.on_frontier else "tab:gray"
        point = ([cost.value], [row.quality.value])
        axes.errorbar(*point, yerr=_arms(row.quality), xerr=across, fmt="o", color=colour, alpha=0.35)
        # No dollar in a name is mathematics.
        label = f"{mark}  {row.name}".replace("$", r"\$") + (" (taken)" if row is choice.row else "")
        axes.plot(*point, "o", color=colour, label=label)
        axes.annotate(mark, (cost.value, row.quality.value), (4, 4), textcoords="offset points", fontsize=8)
    front = sorted((cost.value, row.quality.value) for _, row, cost in placed if row.on_frontier)
    if front:  # not where all of it costs nothing, which a logarithm has no place for
        axes.step(*zip(*front, strict=True), where="post", color="tab:blue", linewidth=1, label="frontier")
    axes.set(
        xscale="log", xlabel=f"{summary.unit}, times plain's", ylabel=f"{summary.measure} (95% intervals)"
    )
    axes.set_title(f"{summary.questions} questions, {summary.concurrency} at once", fontsize=10)
    axes.xaxis.set_major_formatter("{x:.2g}")
    axes.xaxis.set_minor_formatter("{x:.2g}")
    figure.legend(loc="outside right upper", fontsize=7, handlelength=1)
    axes.grid(alpha=0.3)
    try:
        figure.savefig(path)
    except OSError as error:
        raise CalibrationError(f"plot {path} cannot be written: {error.strerror}") from error


def _arms(estimate: Estimate) -> list[list[float]]:
    return [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]
