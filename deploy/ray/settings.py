"""What a Serve application is told, and the server settings it amounts to. Imports neither torch nor vLLM."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.config import ConfigError, ServeSettings, check_variables, use_config_file

# What Decant's own listening half would heed. Under Ray nothing acts on it, wherever it is set.
SET_BY_RAY = {
    "config": "use args.config",
    "host": "use http_options.host of the Serve configuration",
    "port": "use http_options.port of the Serve configuration",
    "tls": "end TLS in a proxy in front of Ray",
    "connections": "bound connections in a proxy in front of Ray",
    "death_grace_seconds": "a replica whose engine dies fails Serve's health check, and is replaced",
}
NOT_AS_ARGUMENTS = {
    "api_keys": "use api_keys_file, or the variable DECANT_API_KEYS: Ray's dashboard shows these arguments",
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
    for name, instead in {**SET_BY_RAY, **NOT_AS_ARGUMENTS}.items():
        if name in arguments.settings:
            raise ConfigError(f"args.settings.{name} cannot be set here; {instead}")
    check_variables()
    use_config_file(arguments.config)
    # `host` is set below; only the file can have another, since images of Decant set DECANT_HOST for servers.
    given = {"host"} & _keys_of(arguments.config)
    try:
        # The proxies listen where Ray is told to, which may be anywhere: so keys are asked for always.
        settings = ServeSettings(**{**arguments.settings, "host": "0.0.0.0"})
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors())
        raise ConfigError("; ".join(problems)) from None
    given |= settings.model_fields_set - {"host"}
    for name, instead in SET_BY_RAY.items():
        if name in given:
            raise ConfigError(f"{name}, in the file or as a variable, does nothing under Ray; {instead}")
    return settings


def _keys_of(file: Path | None) -> set[str]:
    """The top level of a file that `use_config_file` has taken."""
    return set(yaml.safe_load(file.read_text(encoding="utf-8")) or ()) if file is not None else set()
