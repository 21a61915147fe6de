"""The result on a terminal: a table, quality against cost, and the choice."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import yaml
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from decoders.sequence.candidates.answers import MATCH_SECONDS
from server.bench.choice import Choice
from server.bench.statistic import Estimate
from server.bench.summary import Row, Summary
from server.calibration.show import WIDTH, scatter
from server.errors import clip

COLUMNS: Final = 168  # where no terminal says how wide it is; with less, intervals get lines of their own
EVERY: Final = 145  # the least width that has room for all columns
LEFT_OUT: Final = (5, 6, 8, 9)  # columns that a narrower terminal does without
MISSES: Final = 5  # wrong answers shown
TEXT: Final = 90  # characters of each
MARKS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
HEADER: Final = (
    "", "setting", "{measure} (95%)", "less plain's (95%)", "generated", "computed", "by engine", "KV kept",
    "latency", "{unit}", "x plain (95%)",
)  # fmt: skip


def header(summary: Summary) -> list[str]:
    unit = "seconds" if summary.unit == "engine-seconds" else "price"
    return [title.format(measure=summary.measure, unit=unit) for title in HEADER]


def cells(summary: Summary, index: int) -> list[str]:
    """A row's cells; the first is its mark in the plot, with a star on the frontier."""
    row = summary.rows[index]
    cost = "-" if row.cost is None else f"{row.cost:.3g}"
    engines = ", ".join(f"{name} {share:.0%}" for name, share in row.engines.items())
    return [
        mark(index) + ("*" if row.on_frontier else ""),
        row.name,
        f"{row.quality.value:.3f} {_interval(row.quality)}",
        "" if index == 0 else f"{row.gain.value:+.3f} {_interval(row.gain, '+.2f')}",
        f"{row.generated:.1f}",
        f"{row.computed:.1f}",
        engines or "-",
        f"{row.kept:.0%}",
        f"{row.latency:.2f} s",
        cost,
        "1" if index == 0 and row.times is not None else _times(row.times),
    ]


def mark(index: int) -> str:
    """The letter of a row, in the table and in the plots."""
    return MARKS[index] if index < len(MARKS) else "+"


def _interval(estimate: Estimate, form: str = ".2f") -> str:
    return f"({estimate.low:{form}} to {estimate.high:{form}})" if estimate.is_known else "(not known)"


def _times(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.2f} {_interval(estimate)}"


def notes(summary: Summary) -> list[str]:
    """What the columns mean, and what was left out."""
    cost = "seconds: what the server takes for a request while it does nothing else"
    if summary.unit == "price":
        cost = "price: of a request, by the prices given"
    lines = [
        f"{summary.questions} questions ({summary.task}), {summary.turns} time(s) each, "
        f"{summary.concurrency} at once, all settings in the same rounds. Means of a request. generated: "
        "tokens decoded, of all candidates; computed: with the prompt's, and those for scores and changes of "
        f"engine; latency: until the whole answer is there; {cost}; x plain: the median of the rounds' "
        "ratios. *: on the frontier, no other setting is both better and cheaper in these figures."
    ]
    if cut := [f"{row.name} {row.cut}" for row in summary.rows if row.cut]:
        lines.append(f"Answers that ended at max_tokens: {', '.join(cut)}.")
    if slow := [f"{row.name} {row.unsearched}" for row in summary.rows if row.unsearched]:
        lines.append(
            f"Answers that their pattern takes more than {MATCH_SECONDS} s to search, so that they count as "
            f"wrong: {', '.join(slow)}."
        )
    lines += [f"Refused: {name}: {message}" for name, message in summary.refused.items()]
    return lines


def table(summary: Summary, console: Console) -> None:
    def laid(cell: str) -> Text:
        return Text(cell if console.width >= COLUMNS else cell.replace(" (", "\n("))

    made = Table(
        title=f"Beside plain decoding, on {summary.server['model']}", box=SIMPLE, padding=(0, 1, 0, 0)
    )
    titles = header(summary)
    shown = [i for i in range(len(titles)) if console.width >= EVERY or i not in LEFT_OUT]
    for i in shown:
        least = {0: 2, 1: 14}.get(i)  # else a row could lose its name
        side: Literal["left", "right"] = "left" if i in (0, 1, 6) else "right"
        made.add_column(laid(titles[i]), justify=side, no_wrap=i not in (1, 6), min_width=least)
    for index, row in enumerate(summary.rows):
        every = cells(summary, index)
        made.add_row(*(laid(every[i]) for i in shown), style="bold" if row.on_frontier else "")
    console.print(made)
    left = [titles[i] for i in LEFT_OUT if i not in shown]
    room = [f"No room for: {', '.join(left)}; a wider terminal or --markdown FILE has them."] if left else []
    for line in (*room, *notes(summary)):
        console.print("\n".join(textwrap.wrap(line, min(console.width, 110))), style="dim", markup=False)


def plot(summary: Summary) -> str:
    """Quality against cost over plain's, logarithmically; the marks are the table's."""
    placed = [(i, row) for i, row in enumerate(summary.rows) if row.times is not None and row.times.value > 0]
    if not placed:
        return f"No plot: {uncompared(summary)}."
    logs = {i: math.log(row.times.value) for i, row in placed if row.times is not None}
    low, high = min(logs.values()), max(logs.values())
    span = high - low or 1.0
    in_front = sorted(placed, key=lambda one: one[1].on_frontier)
    points = [((logs[i] - low) / span, row.quality.value, mark(i)) for i, row in in_front]
    ends = f"{math.exp(low):.2f}", f"{math.exp(high):.2f}"
    title = f"{summary.unit}, times plain's"
    axis = f"{'':7} {ends[0]}{title:^{WIDTH - len(ends[0]) - len(ends[1])}}{ends[1]}"
    return "\n".join([f"{summary.measure}; settings by their letters", *scatter(points), axis])


def uncompared(summary: Summary) -> str:
    """Why no setting has a place on a logarithmic axis of costs over plain's."""
    if summary.plain.cost is None:
        return "no round was left whole, so no cost is known"
    return "plain decoding costs nothing at these prices, so no cost can be compared with its own"


def frontier(summary: Summary) -> str:
    on = sorted((row for row in summary.rows if row.on_frontier), key=_cost)
    return f"On the frontier, from the cheapest: {', '.join(row.name for row in on)}." if on else ""


def misses(missed: Sequence[tuple[str, str]], state: str) -> str:
    """Some answers that count as wrong, so that one sees whether the model is or the question; and where all
    answers are."""
    lines = [
        f"  {where}: {json.dumps(clip(text, TEXT), ensure_ascii=False)}" for where, text in missed[:MISSES]
    ]
    if lines:
        first = f" (the first {MISSES} of {len(missed)})" if len(missed) > MISSES else ""
        lines.insert(0, f"Answers of plain decoding that count as wrong{first}; is it they or the questions?")
    return "\n".join(["", *lines, f"All answers are in {state}; delete it to ask other questions."])


def _cost(row: Row) -> float:
    return row.times.value if row.times else math.inf


def decoding(row: Row, extract: Mapping[str, Any] | None) -> dict[str, Any]:
    """The `decoding` object as it was asked with."""
    return row.setting.extracting(extract)


def fields(summary: Summary, row: Row) -> dict[str, Any]:
    """The request's other fields, without the questions'."""
    model = {"model": row.setting.model} if row.setting.model else {}
    temperature = summary.temperature if row.setting.chooses() else 0
    return {**model, "temperature": temperature, **row.setting.request}


def snippet(summary: Summary, row: Row, name: str, extract: Mapping[str, Any] | None) -> str:
    """A preset for `decant serve --config`; what it cannot hold of the request is in its description."""
    description = f"Chosen by decant bench: {row.name}."
    if asked := fields(summary, row):
        description += f" It was asked with {', '.join(f'{k} {json.dumps(v)}' for k, v in asked.items())}."
    entry = {"description": description, "decoding": decoding(row, extract)}
    text: str = yaml.safe_dump({"presets": {name: entry}}, sort_keys=False)
    return text


def conclusion(summary: Summary, choice: Choice, name: str, extract: Mapping[str, Any] | None) -> str:
    """The frontier, the choice with its reasons, and what to paste."""
    row = choice.row
    lines = [frontier(summary), "", f"Take: {row.name}"]
    lines += [line for reason in choice.reasons for line in textwrap.wrap(reason, 100)]
    body = {**fields(summary, row), "decoding": decoding(row, extract)}
    lines += ["", "In a request:", "", f"  {json.dumps(body)}"]
    if row.setting.decoding:
        lines += ["", "As a preset, in the file that decant serve --config reads:", ""]
        lines += [f"  {line}" for line in snippet(summary, row, name, extract).splitlines()]
    return "\n".join(lines)
