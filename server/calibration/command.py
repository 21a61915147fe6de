"""`decant calibrate`: its commands, and `ead`, from flags to the report."""

import sys
from collections.abc import Sequence

from tqdm import tqdm

from server.calibration import plot, preset
from server.calibration.connect import connected
from server.calibration.data import Prompt, digest, read_prompts
from server.calibration.errors import CalibrationError
from server.calibration.flags import parsed
from server.calibration.interrupt import INTERRUPTED, asked
from server.calibration.settings import ConformalSettings, EadSettings
from server.calibration.show import curve, sentence, table
from server.calibration.state import State
from server.calibration.summary import Row, Summary, choose_quality, choose_share, summarise
from server.calibration.sweep import Sweep

USAGE = """decant calibrate METHOD [flags]

methods:
  ead        the threshold of entropy-adaptive decoding: quality against share of large-model tokens
  conformal  the thresholds of answer sets that hold an acceptable answer, with a guarantee

'decant calibrate METHOD --help' explains every flag."""


def main(arguments: Sequence[str]) -> int:
    """Run one calibration; its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    commands = {"ead": ead, "conformal": conformal}
    if command not in commands:
        return _fail(f"calibrate: no such method; there are: {', '.join(commands)}", 2)
    return commands[command](rest)


def ead(arguments: Sequence[str]) -> int:
    """`decant calibrate ead`."""
    options = parsed(EadSettings, arguments)
    if isinstance(options, int):
        return options
    try:
        if options.plot is not None:
            plot.require()
        if options.write_preset is not None:
            preset.require_writable(options.write_preset)
        prompts = read_prompts(options.data, options.limit)
        with State(options.state_file(), "ead", options.measured(), digest(prompts)) as state:
            return _calibrate(options, prompts, state)
    except CalibrationError as error:
        return _fail(str(error), 1)


def conformal(arguments: Sequence[str]) -> int:
    """`decant calibrate conformal`."""
    from server.calibration.conformal_command import run

    options = parsed(ConformalSettings, arguments)
    if isinstance(options, int):
        return options
    try:
        return run(options)
    except CalibrationError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("stopped", INTERRUPTED)


def _calibrate(options: EadSettings, prompts: Sequence[Prompt], state: State) -> int:
    sweep = Sweep(options, prompts, state)
    if not sweep.is_complete() and (status := asked(_ask(options, sweep), sweep.state.path, sweep.done)):
        return status
    _report(options, sweep)
    return 0


async def _ask(options: EadSettings, sweep: Sweep) -> None:
    if done := sweep.done():
        _say(f"going on from {sweep.state.path}, which holds {done} answers")
    async with connected(options.url, options.key(), options.config, options.concurrency) as client:
        pair = await client.pair(options.model, options.small, options.large)
        bar = tqdm(
            total=sweep.total(),
            initial=done,
            unit="answer",
            disable=None,
            file=sys.stderr,
            dynamic_ncols=True,
        )
        with bar:
            await sweep.run(client, pair, bar)


def _report(options: EadSettings, sweep: Sweep) -> None:
    summary = summarise(sweep, options.match)
    chosen = _choice(options, summary)
    print(f"{table(summary)}\n\n{curve(summary, chosen)}")
    if chosen is not None:
        print(f"\n{sentence(summary, chosen)}")
        if chosen.setting.threshold is None:
            print(_alone(options, chosen is summary.large))
    if options.plot is not None:
        plot.draw(summary, chosen, options.plot)
        print(f"The curve is in {options.plot}.")
    if options.write_preset is not None and chosen is not None:
        engines = sweep.state.engines or {}
        models = engines["models"][0], engines["models"][1]
        preset.write(
            options.write_preset, preset.preset(summary, chosen, options.name, models, options.concurrency)
        )
        print(f"The preset is in {options.write_preset}; it is served as {engines['served']}:{options.name}.")


def _alone(options: EadSettings, is_large: bool) -> str:
    if options.share is not None:
        return "No measured threshold lies nearer to the share."
    return "No measured threshold is enough." if is_large else "It is enough without a threshold."


def _choice(options: EadSettings, summary: Summary) -> Row | None:
    if options.share is not None:
        return choose_share(summary.rows, options.share)
    if options.quality is not None:
        return choose_quality(summary.rows, options.quality)
    return None


def _say(text: str) -> None:
    print(f"decant: {text}", file=sys.stderr)


def _fail(text: str, status: int) -> int:
    _say(text)
    return status
