"""The choice as a preset: YAML that `decant serve --config` reads."""

import textwrap
from datetime import date
from pathlib import Path
from typing import Final

import yaml

from server.calibration.errors import CalibrationError
from server.calibration.show import sentence
from server.calibration.summary import Row, Summary

FIRST: Final = "# Written by decant calibrate"
COLUMNS: Final = 100


def require_writable(path: Path, first: str = FIRST) -> None:
    """Raise CalibrationError for a file that another hand has written: one that does not begin so."""
    try:
        if path.exists() and not path.read_text(encoding="utf-8").startswith(first):
            command = first.removeprefix("# Written by ")
            raise CalibrationError(f"write_preset: {path} exists and is not of {command}")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"write_preset: {path} cannot be read: {error}") from error


def preset(summary: Summary, chosen: Row, name: str, models: tuple[str, str], concurrency: int) -> str:
    """The file's text: a comment of what was measured, and `presets`."""
    small, large = models
    facts = [
        f"{FIRST} ead, {date.today().isoformat()}.",
        f"Small: {small}, large: {large}; {chosen.quality.of} prompts, greedy, {concurrency} at once.",
        sentence(summary, chosen),
        f"At {chosen.switches:.2f} switches an answer it computes {chosen.recomputed:.1f} tokens again. "
        "To serve it, name this file with --config, or copy the entry into your configuration's presets.",
    ]
    comment = [facts[0]] + [
        line
        for fact in facts[1:]
        for line in textwrap.wrap(fact, COLUMNS, initial_indent="# ", subsequent_indent="# ")
    ]
    share = (
        f"{chosen.share:.0%} of the tokens by the large model, {summary.measure} {chosen.quality.value:.3f}"
    )
    entry = {"description": f"Calibrated: {share}.", "decoding": {"sequence": chosen.setting.sequence}}
    return "\n".join(comment) + "\n" + yaml.safe_dump({"presets": {name: entry}}, sort_keys=False)


def write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CalibrationError(f"write_preset: {path} cannot be written: {error.strerror}") from error
