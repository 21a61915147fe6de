"""`decant train-reward` and `decant merge-adapter`: flags, progress, and errors in words."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import CliApp, SettingsConfigDict, SettingsError

from decoders.training.settings import MergeSettings, RewardSettings

NEEDED = ("accelerate", "peft")
Settings = TypeVar("Settings", bound=BaseModel)


class Reward(RewardSettings):
    __doc__ = RewardSettings.__doc__
    model_config = SettingsConfigDict(cli_prog_name="decant train-reward", cli_kebab_case=True)


class Merge(MergeSettings):
    __doc__ = MergeSettings.__doc__
    model_config = SettingsConfigDict(cli_prog_name="decant merge-adapter", cli_kebab_case=True)


def train_reward(arguments: Sequence[str]) -> int:
    """Train, and print how well the held-out pairs are told apart."""

    def work(settings: RewardSettings) -> None:
        from decoders.training.reward import train

        figures = train(settings)
        for name in ("pair_accuracy", "margin", "loss"):
            if name in figures:
                print(f"{name:14} {figures[name]:.4f}")
        print(f"The model is in {settings.out}; serve it as a guide, e.g. guides: {{NAME: {settings.out}}}.")

    return _run("train-reward", Reward, work, arguments)


def merge_adapter(arguments: Sequence[str]) -> int:
    """Merge, and say where the model lies."""

    def work(settings: MergeSettings) -> None:
        from decoders.training.reward import merge_adapter as merge

        merge(settings.adapter, settings.out, settings.model)
        print(f"The merged model is in {settings.out}.")

    return _run("merge-adapter", Merge, work, arguments)


def _run(
    command: str, kind: type[Settings], work: Callable[[Settings], None], arguments: Sequence[str]
) -> int:
    try:
        settings = CliApp.run(kind, cli_args=list(arguments))
    except ValidationError as error:
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            print(f"decant: {where + ': ' if where else ''}{problem['msg']}", file=sys.stderr)
        return 2
    except SettingsError as error:
        print(f"decant: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"decant: {command} needs {', '.join(missing)}: pip install 'decant[train]'", file=sys.stderr)
        return 1
    try:
        work(settings)
    except (OSError, ValueError) as error:
        print(f"decant: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0
