"""The curve as a drawing, if matplotlib is there."""

import importlib.util
from pathlib import Path

from server.calibration.errors import CalibrationError
from server.calibration.summary import Row, Summary


def require() -> None:
    """Raise CalibrationError if nothing can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise CalibrationError("plot needs matplotlib: pip install 'decant[plot]'")


def draw(summary: Summary, chosen: Row | None, path: Path) -> None:
    """Quality with its 95% intervals against the share of large-model tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = [row.share for row in summary.rows]
    values = [row.quality.value for row in summary.rows]
    bounds = [row.quality.interval() for row in summary.rows]
    below = [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)]
    axes.errorbar(shares, values, yerr=[below, above], fmt="o", capsize=3, color="tab:blue", label="measured")
    axes.axhline(summary.large.quality.value, color="tab:gray", linestyle=":", label="large model alone")
    for row in summary.rows:
        threshold = row.setting.threshold
        label = row.setting.name if threshold is None else f"{threshold:.3g}"
        axes.annotate(label, (row.share, row.quality.value), (4, 6), textcoords="offset points", fontsize=7)
    if chosen is not None:
        point = ([chosen.share], [chosen.quality.value])
        axes.plot(*point, "*", color="tab:orange", markersize=14, zorder=3, label="chosen")
    axes.set(
        xlabel="share of large-model tokens", ylabel=f"{summary.measure} (95% interval)", xlim=(-0.03, 1.06)
    )
    axes.set_title(f"EAD over its threshold (bits), {summary.large.quality.of} prompts", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    try:
        figure.savefig(path)
    except OSError as error:
        raise CalibrationError(f"plot {path} cannot be written: {error.strerror}") from error
