"""Flags into settings, and what is wrong with them in words."""

import sys
from collections.abc import Sequence
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsError

Settings = TypeVar("Settings", bound=BaseSettings)


def parsed(kind: type[Settings], arguments: Sequence[str]) -> Settings | int:
    """The settings that the flags give; for wrong ones the exit status 2, and what is wrong on stderr."""
    try:
        return CliApp.run(kind, cli_args=list(arguments))
    except ValidationError as error:
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            print(f"decant: {where + ': ' if where else ''}{problem['msg']}", file=sys.stderr)
    except SettingsError as error:
        print(f"decant: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
