"""The `decant` command."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from server import __version__

if TYPE_CHECKING:
    from server.config import ServeSettings

USAGE = """decant COMMAND [flags]

commands:
  serve [MODEL]   serve MODEL, or the embedded models, over the OpenAI HTTP API
  doctor          say what this machine offers and what Decant would use
  rank            rank candidate answers to a question, or to those of a file
  bench           compare decoding methods on a task: quality, tokens, seconds, cost
  calibrate       measure a method's thresholds on your prompts, and choose one
  train-reward    train a guide for genarm from preference pairs
  merge-adapter   merge a PEFT adapter into its base model, to serve it as a guide

'decant COMMAND --help' explains every flag."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status: 0 done, 1 failed, 2 wrong usage or configuration."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (given[0], given[1:]) if given else ("--help", [])
    if command in ("-h", "--help"):
        print(USAGE)
        sys.exit(0)
    if command in ("-V", "--version"):
        print(f"decant {__version__}")
        sys.exit(0)
    commands = {
        "serve": serve,
        "doctor": doctor,
        "rank": rank,
        "bench": bench,
        "calibrate": calibrate,
        "train-reward": train_reward,
        "merge-adapter": merge_adapter,
    }
    if command not in commands:
        print(f"decant: no such command; there are: {', '.join(commands)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(commands[command](rest))


def rank(arguments: Sequence[str]) -> int:
    from server.rank_command import main as run

    return run(arguments)


def bench(arguments: Sequence[str]) -> int:
    from server.bench.command import main as run

    return run(arguments)


def calibrate(arguments: Sequence[str]) -> int:
    from server.calibration.command import main as run

    return run(arguments)


def train_reward(arguments: Sequence[str]) -> int:
    from server.training import train_reward as run

    return run(arguments)


def merge_adapter(arguments: Sequence[str]) -> int:
    from server.training import merge_adapter as run

    return run(arguments)


def serve(arguments: Sequence[str]) -> int:
    import os

    from pydantic_settings import CliApp, SettingsError

    from server.config import ConfigError, ServeSettings, check_variables, use_config_file
    from server.listen import bind

    try:
        check_variables()
        use_config_file(_config_path(arguments, os.environ.get("DECANT_CONFIG")))
        settings = CliApp.run(ServeSettings, cli_args=list(arguments))
        set_up(settings)
        sock = bind(settings.host, settings.port)

        import uvloop

        from server.lifecycle import serve as run  # imports vLLM, which reads the environment

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(settings, sock))
    except ValidationError as error:
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            print(f"decant: {where + ': ' if where else ''}{problem['msg']}", file=sys.stderr)
        return 2
    except (ConfigError, SettingsError) as error:
        print(f"decant: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def set_up(settings: "ServeSettings") -> None:
    """Set this process's log and environment as `settings` say, and fail fast on models that are not there.

    To be called before vLLM is imported, which reads the environment. Errors: ConfigError.
    """
    import os

    from decoders.output import make_lossy
    from server.environment import prepare
    from server.logs import configure
    from server.models import locate

    make_lossy()
    configure(settings.log_level, settings.log_format)
    prepare(
        engines=len(settings.engine_table()),
        threads_per_engine=settings.threads_per_engine,
        vllm_log_level=settings.vllm_log_level,
        stop_strings=settings.limits.stop,
        processors=settings.needs_processors(),
        chosen=_chosen(settings.model_fields_set),
    )
    os.environ["DECANT_KERNELS"] = settings.kernels
    for engine in settings.engine_table().values():
        draft = engine.speculative.draft_model() if engine.speculative is not None else None
        for model in (engine.model, *engine.guides.values(), *([draft] if draft else [])):
            locate(model)


def _chosen(fields: set[str]) -> set[str]:
    """The environment variables whose values the operator has set through Decant."""
    through = {"threads_per_engine": "OMP_NUM_THREADS", "vllm_log_level": "VLLM_LOGGING_LEVEL"}
    return {"VLLM_MAX_STOP_STRINGS"} | {variable for field, variable in through.items() if field in fields}


def _config_path(arguments: Sequence[str], default: str | None) -> Path | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=default)
    path = parser.parse_known_args(list(arguments))[0].config
    return Path(path) if path else None


def doctor(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="decant doctor", description="Say what this machine offers and what Decant would use."
    )
    parser.parse_args(list(arguments))
    from server.doctor import report

    return report()
