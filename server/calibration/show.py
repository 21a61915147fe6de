"""The result as text: a table, a curve, and the choice in a sentence."""

from collections.abc import Sequence
from typing import Final

from server.calibration.summary import Row, Summary

WIDTH, HEIGHT = 61, 13
HEADER: Final = (
    "setting", "share of large", "{measure} (95%)", "prefix", "tokens", "switches", "recomputed", "tokens/s",
)  # fmt: skip
NOTES: Final = (
    "prefix: share of an answer's tokens before it departs from the large model's; tokens, switches,",
    "recomputed: means of an answer; tokens/s: over the large model's in the same round, median and",
    "quartiles of the rounds.",
)


def table(summary: Summary) -> str:
    """One line a setting."""
    lines = [tuple(title.format(measure=summary.measure) for title in HEADER)]
    lines += [_cells(row) for row in summary.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    text = [
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    return "\n".join([*text, "", *NOTES, *_remarks(summary)])


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.quality.interval()
    speed = "-"
    if row.speed is not None:
        speed = f"{row.speed.middle:.2f}"
        if row.speed.rounds > 1:
            speed += f" ({row.speed.low:.2f} to {row.speed.high:.2f})"
    return (
        row.setting.name,
        f"{row.share:.1%}",
        f"{row.quality.value:.3f} ({low:.3f} to {high:.3f})",
        f"{row.prefix:.3f}",
        f"{row.tokens:.1f}",
        f"{row.switches:.2f}",
        f"{row.recomputed:.1f}",
        speed,
    )


def _remarks(summary: Summary) -> list[str]:
    same = summary.itself
    lines = [f"Asked twice, the large model gave the same answer to {same.hits} of {same.of} prompts."]
    if cut := max(row.cut for row in summary.rows):
        lines.append(f"Up to {cut} of {same.of} answers of a setting ended at max_tokens.")
    if any(row.speed is None for row in summary.rows):
        lines.append("-: an interruption divided every round in which this could be measured.")
    return lines


def curve(summary: Summary, chosen: Row | None = None) -> str:
    """Quality against share: s the small model, l the large one, o a threshold, * the choice."""
    points = [
        (row.share, row.quality.value, "*" if row is chosen else _mark(summary, row))
        for row in _chosen_last(summary.rows, chosen)
    ]
    lines = [f"{summary.measure}; s small, l large, o EAD" + (", * the choice" if chosen else "")]
    lines += scatter(points)
    lines.append(f"{'':7} 0%{'share of large-model tokens':^{WIDTH - 6}}100%")
    return "\n".join(lines)


def scatter(points: Sequence[tuple[float, float, str]]) -> list[str]:
    """Points x (0 to 1), y and mark on a grid with the axes; where two meet the later one is seen."""
    values = [value for _, value, _ in points]
    low, high = min(values), max(values)
    span = high - low or 1.0
    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    for x, value, mark in points:
        grid[round((high - value) / span * (HEIGHT - 1))][round(x * (WIDTH - 1))] = mark
    lines = []
    for y, cells in enumerate(grid):
        label = f"{high:.3f}" if y == 0 else f"{low:.3f}" if y == HEIGHT - 1 and low < high else ""
        lines.append(f"{label:>6} |{''.join(cells)}".rstrip())
    return [*lines, f"{'':6} +{'-' * WIDTH}"]


def _chosen_last(rows: Sequence[Row], chosen: Row | None) -> list[Row]:
    return sorted(rows, key=lambda row: row is chosen)


def _mark(summary: Summary, row: Row) -> str:
    if row.setting.threshold is not None:
        return "o"
    return "l" if row is summary.large else "s"


def sentence(summary: Summary, row: Row) -> str:
    """What was chosen and what is known of it."""
    large = summary.large.quality
    low = row.quality.interval()[0]
    threshold = row.setting.threshold
    name = f"the {row.setting.name} model alone" if threshold is None else f"threshold {threshold:g} bits"
    text = f"Chosen: {name}: {row.share:.1%} of the tokens by the large model, "
    text += f"{summary.measure} {row.quality.value:.3f} of {row.quality.of} (at 95% at least {low:.3f})"
    if large.hits:
        ratio = row.quality.value / large.value
        text += f", {ratio:.3f} of the large model's (at least {low / large.value:.3f})"
    if row.speed is not None:
        text += f", {row.speed.middle:.2f} times its tokens/s"
    slower = row is not summary.large and row.speed is not None and row.speed.high < 1
    return f"{text}." + (" On this server the large model alone was faster." if slower else "")
