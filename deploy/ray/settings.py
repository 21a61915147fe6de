"""What a Serve application is told, and the server settings it amounts to. Imports neither torch nor vLLM."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.config import ConfigError, ServeSettings, check_variables, use_config_file

SET_BY_RAY = {
    "host": "http_options.host of the Serve configuration",
    "port": "http_options.port of the Serve configuration",
    "api_keys": "api_keys_file, or the variable DECANT_API_KEYS: Ray's dashboard shows these arguments",
}


class Arguments(BaseModel):
    """The `args` of the application in a Serve configuration."""

    model_config = ConfigDict(extra="forbid")

    config: Path | None = Field(
        default=None, description="Decant's YAML file; on every node, at the same path."
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Decant's settings, over variables and over the file."
    )


def read(arguments: Arguments) -> ServeSettings:
    """The settings of one replica. Errors: ConfigError, in words for the operator."""
    for name, instead in SET_BY_RAY.items():
        if name in arguments.settings:
            raise ConfigError(f"args.settings.{name} cannot be set here; use {instead}")
    check_variables()
    use_config_file(arguments.config)
    try:
        # The proxies listen where Ray is told to, which may be anywhere: so keys are asked for always.
        return ServeSettings(**{**arguments.settings, "host": "0.0.0.0"})
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors())
        raise ConfigError("; ".join(problems)) from None
