"""`decant bench`: from flags to the table, the files and the choice."""

import sys
import textwrap
from collections.abc import Sequence
from datetime import date
from typing import Final

from rich.console import Console
from tqdm import tqdm

from server.bench import files, show
from server.bench.choice import Choice, choose
from server.bench.matching import common
from server.bench.run import Run
from server.bench.settings import BenchSettings
from server.bench.state import BenchState
from server.bench.summary import Summary, missed, summarise
from server.bench.tasks import Task
from server.calibration import plot, preset
from server.calibration.connect import connected
from server.calibration.errors import CalibrationError
from server.calibration.flags import parsed
from server.calibration.interrupt import asked

FIRST: Final = "# Written by decant bench"


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit status: 0 done, 1 failed, 2 wrong usage, 130 and 143 interrupted."""
    options = parsed(BenchSettings, arguments)
    if isinstance(options, int):
        return options
    try:
        if options.plot is not None:
            plot.require()
        if options.write_preset is not None:
            preset.require_writable(options.write_preset, FIRST)
        told, task = options.measured(), options.questions()
        with BenchState(options.state_file(), told, task.digest()) as state:
            return _bench(options, Run(options, task, state))
    except CalibrationError as error:
        print(f"decant: {error}", file=sys.stderr)
        return 1


def _bench(options: BenchSettings, run: Run) -> int:
    if not run.is_complete() and (status := asked(_ask(options, run), run.state.path, run.done)):
        return status
    run.check_prices()
    return _report(options, run)


async def _ask(options: BenchSettings, run: Run) -> None:
    if done := run.done():
        print(f"decant: going on from {run.state.path}, which holds {done} answers", file=sys.stderr)
    async with connected(options.url, options.key(), options.config, options.concurrency) as client:
        bar = tqdm(
            total=run.total() or None,
            initial=done,
            unit="answer",
            disable=None,
            file=sys.stderr,
            dynamic_ncols=True,
        )
        with bar:
            await run.ask(client, bar)


def _report(options: BenchSettings, run: Run) -> int:
    """Writes and prints the result; the exit status, 1 if there is no plot of it."""
    summary = summarise(run)
    choice = choose(summary, options.margin, options.goal)
    extract = _extract(run.task)
    _write(options, summary, choice, extract)  # first: whoever reads stdout may stop reading
    failure = _draw(options, summary, choice)
    console = Console() if sys.stdout.isatty() else Console(width=show.COLUMNS)
    show.table(summary, console)
    print(f"\n{show.plot(summary)}\n")
    print(show.conclusion(summary, choice, options.name, extract))
    print(show.misses(missed(run, summary), str(run.state.path)))
    if choice.row.setting.chooses() and extract is None and run.task.questions[0].extract is not None:
        print("\nAnswers were compared by what counts in each question; here `extract` has to say it.")
    if failure is not None:
        print(f"decant: {failure}", file=sys.stderr)
    return 0 if failure is None else 1


def _draw(options: BenchSettings, summary: Summary, choice: Choice) -> CalibrationError | None:
    """What kept the plot from being drawn, which is no reason to lose the rest of the report."""
    try:
        if options.plot is not None:
            files.draw(summary, choice, options.plot)
    except CalibrationError as error:
        return error
    return None


def _write(
    options: BenchSettings, summary: Summary, choice: Choice, extract: dict[str, object] | None
) -> None:
    if options.json_out is not None:
        files.write(options.json_out, files.as_json(summary, choice))
    if options.csv is not None:
        files.write(options.csv, files.as_csv(summary))
    if options.markdown is not None:
        files.write(options.markdown, files.as_markdown(summary, choice))
    if options.write_preset is not None and choice.row.setting.decoding:
        said = [line for reason in choice.reasons for line in textwrap.wrap(reason, preset.COLUMNS)]
        lines = [f"{FIRST}, {date.today().isoformat()}.", *(f"# {line}" for line in said)]
        text = show.snippet(summary, choice.row, options.name, extract)
        preset.write(options.write_preset, "\n".join([*lines, text]))
    elif options.write_preset is not None:
        name = choice.row.name
        print(f"decant: {name} is taken and has no `decoding`, so no preset is written", file=sys.stderr)


def _extract(task: Task) -> dict[str, object] | None:
    return common([one.extract for one in task.questions])
