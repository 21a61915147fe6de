"""Configuration: flags over DECANT_* variables over a YAML file over defaults. Unknown keys are errors."""

import difflib
import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from decoders.engine_process import MARK
from decoders.request import DecodingRequest
from decoders.speculative.settings import SpeculativeSettings
from server.keys import ApiKey, read_keys
from server.limits import ConnectionSettings, ContentLimits, HostName, KeyLimits, Origin
from server.tls import TlsSettings

EMBEDDED = "embedded:"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-+]{0,63}$")]


def _listed(value: Any) -> Any:
    """A list may be written as text: comma-separated, or as JSON."""
    if not isinstance(value, str):
        return value
    return (
        yaml.safe_load(value)
        if value.lstrip().startswith("[")
        else [part.strip() for part in value.split(",")]
    )


def _plain_values(arguments: Any) -> Any:
    """Flags give every engine argument as text; read each as YAML would."""
    if not isinstance(arguments, dict):
        return arguments
    return {k.replace("-", "_"): yaml.safe_load(v) if isinstance(v, str) else v for k, v in arguments.items()}


EngineArguments = Annotated[dict[str, Any], BeforeValidator(_plain_values)]


class ConfigError(Exception):
    """A configuration that cannot be served, in words for the operator."""


class EngineSettings(BaseModel):
    """One vLLM engine."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="Hugging Face id, local path, or embedded:NAME.")
    guides: dict[Name, str] = Field(
        default_factory=dict,
        description="Guide models by name; each must share the engine model's tokenizer.",
    )
    cache_methods: list[str] = Field(
        default_factory=list,
        description="KV-cache methods that requests to this engine may ask for: kvmerger, snapkv, streaming.",
    )
    switching: bool = Field(
        default=True,
        description="Let answers switch between this engine and others (EAD), where there are others.",
    )
    speculative: SpeculativeSettings | None = Field(
        default=None,
        description="Speculative decoding: {method: ngram | suffix | draft_model | eagle | eagle3 | "
        "adaptive_draft, ...}.",
    )
    args: EngineArguments = Field(
        default_factory=dict, description="vLLM engine arguments of this engine, e.g. {max_model_len: 4096}."
    )


class PresetSettings(BaseModel):
    """A `decoding` object under a model id of its own, for clients that cannot send extra fields."""

    model_config = ConfigDict(extra="forbid")

    decoding: DecodingRequest = Field(description="The decoding object requests to this id get.")  # type: ignore[valid-type]
    description: str = ""


class LimitSettings(ContentLimits):
    """Bounds on one request and on all of them together."""

    model_config = ConfigDict(extra="forbid")

    body_bytes: int = Field(
        default=8 << 20, ge=1024, description="Largest request body, in bytes (413 above)."
    )
    concurrent_requests: int = Field(default=256, ge=1, description="Requests that run at once; others wait.")
    queued_requests: int = Field(default=512, ge=0, description="Requests that may wait; 503 above.")
    queue_seconds: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Longest wait in line that may be expected, by how long the last requests ran; 503 "
        "above. No bound if left out.",
    )
    n: int = Field(default=16, ge=1, description="Largest n.")
    sequences: int = Field(default=128, ge=1, description="Largest n times prompts in one request.")
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Largest max_tokens, and its default; the model's context if left out.",
    )
    prompt_tokens: int | None = Field(
        default=None, ge=1, description="Longest prompt in tokens; the model's context if left out."
    )
    logprobs: int = Field(default=20, ge=0, description="Largest logprobs, top_logprobs and prompt_logprobs.")
    stop: int = Field(default=4, ge=1, description="Most stop strings.")
    candidates: int = Field(
        default=64, ge=2, le=1024, description="Most candidate answers in one request, sampled or given."
    )
    candidate_tokens: int = Field(
        default=1 << 18,
        ge=1,
        description="Most tokens of all candidates in one request: candidates times max_tokens, or those of "
        "the candidates given.",
    )
    logit_bias: int = Field(default=1024, ge=0, description="Most entries in logit_bias.")


_config_file: ContextVar[Path | None] = ContextVar("config_file", default=None)


class ServeSettings(BaseSettings):
    """Serve MODEL, or the embedded models, over the OpenAI HTTP API."""

    model_config = SettingsConfigDict(
        extra="forbid",
        env_prefix="DECANT_",
        env_nested_delimiter="__",
        cli_prog_name="decant serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=False,
    )

    _keys: list[ApiKey] = PrivateAttr(default_factory=list)

    model: CliPositionalArg[str | None] = Field(
        default=None,
        description="Hugging Face id or local path to serve; left out, the embedded models.",
    )
    config: Path | None = Field(default=None, description="YAML file with any of these keys.")
    host: str = Field(
        default="127.0.0.1", description="Address to listen on; other than loopback only with an API key."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    served_model_name: str | None = Field(
        default=None, description="Model id that clients use; 'demo' for the embedded models, else MODEL."
    )
    engines: dict[Name, EngineSettings] = Field(
        default_factory=dict,
        description="Engines by name, in place of MODEL: {base: {model: ...}, small: {...}}.",
    )
    default_engine: str | None = Field(
        default=None, description="Engine of requests that name none; the first if left out."
    )
    engine_args: EngineArguments = Field(
        default_factory=dict,
        description="vLLM engine arguments for every engine, e.g. {max_model_len: 4096}.",
    )
    speculative: SpeculativeSettings | None = Field(
        default=None,
        description="Speculative decoding of MODEL, as JSON; of engines, set it in each of them.",
    )
    presets: dict[Name, PresetSettings] = Field(
        default_factory=dict, description="Decoding objects by name; NAME is served as model id MODEL:NAME."
    )
    threads_per_engine: int | None = Field(
        default=None, ge=1, description="CPU threads of each engine; the cores shared out evenly if left out."
    )
    kernels: Literal["native", "reference"] = Field(
        default="native",
        description="What runs the decoding operators; reference is plain torch, to compare with.",
    )

    api_keys: Annotated[list[SecretStr], NoDecode, BeforeValidator(_listed)] = Field(
        default_factory=list,
        description="Keys that clients may use, each KEY or NAME KEY, where KEY may be sha256:HEX; on a "
        "command line others can read them: prefer a file.",
    )
    api_keys_file: Path | None = Field(
        default=None, description="File with one such key a line; # begins a comment."
    )
    key_limits: KeyLimits = Field(
        default_factory=KeyLimits,
        description="What each API key may use; without keys, all clients together.",
    )
    limits_by_key: dict[Name, KeyLimits] = Field(
        default_factory=dict, description="Other limits for keys by name, in place of key_limits."
    )
    allow_no_api_key: bool = Field(
        default=False,
        description="Listen beyond loopback without any API key: everyone there may use the server.",
    )
    allowed_hosts: Annotated[list[HostName], NoDecode, BeforeValidator(_listed)] = Field(
        default_factory=list,
        description="Names, beside localhost and addresses, under which a server on loopback without API "
        "keys is asked, through a proxy for example; a page could else reach it under a name of its own.",
    )
    open_metrics: bool = Field(default=False, description="Serve /metrics without a key.")
    playground: bool = Field(
        default=True,
        description="Serve the playground at /. The page needs no key; what it asks the server for does.",
    )
    cors_origins: Annotated[list[Origin], NoDecode, BeforeValidator(_listed)] = Field(
        default_factory=list,
        description="Web origins, such as https://chat.example.org, whose pages may call the server; none by "
        "default.",
    )
    limits: LimitSettings = Field(default_factory=LimitSettings, description="Bounds on requests.")
    connections: ConnectionSettings = Field(
        default_factory=ConnectionSettings, description="Bounds on connections."
    )
    tls: TlsSettings = Field(default_factory=TlsSettings, description="Serve HTTPS.")
    allow_chat_templates: bool = Field(
        default=False,
        description="Let clients send a chat template of their own: they may then use up the server's time.",
    )

    chat_template: str | None = Field(
        default=None, description="Chat template, or a file that holds it; the model's own if left out."
    )
    tool_call_parser: str | None = Field(
        default=None, description="vLLM tool-call parser, e.g. hermes; also lets tool_choice be 'auto'."
    )
    reasoning_parser: str | None = Field(default=None, description="vLLM reasoning parser, e.g. qwen3.")

    drain_seconds: float = Field(
        default=30.0,
        ge=0,
        allow_inf_nan=False,
        description="On SIGTERM, how long running requests may go on before they are aborted.",
    )
    death_grace_seconds: float = Field(
        default=3.0,
        ge=0,
        allow_inf_nan=False,
        description="How long /health answers 503 after an engine died, before exiting.",
    )
    restart_engines: int = Field(
        default=0,
        ge=0,
        description="How often within restart_window_seconds an engine that died or hangs is started again, "
        "while the others serve on; then, or at once with 0, the server exits.",
    )
    restart_window_seconds: float = Field(
        default=600.0, gt=0, allow_inf_nan=False, description="The time in which restart_engines counts."
    )
    hang_seconds: float | None = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="An engine with requests that takes no step for so long counts as dead; longer where a "
        "step computes much of a prompt. null: never.",
    )
    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^/\s]+(/\S*)?$")] | None = Field(
        default=None,
        description="OpenTelemetry collector that gets traces by OTLP over HTTP, like http://localhost:4318. "
        "The OTEL_* variables (headers, sampler, resource) are heeded.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe message of Decant's own to log."
    )
    vllm_log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="error", description="Least severe message of vLLM's to log."
    )
    log_format: Literal["text", "json"] = Field(default="text", description="Shape of the log lines.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            YamlConfigSettingsSource(settings_cls, yaml_file=_config_file.get()),
        )

    @model_validator(mode="after")
    def _consistent(self) -> "ServeSettings":
        if self.model is not None and self.engines:
            raise ValueError("give MODEL or engines, not both")
        if self.speculative is not None and self.model is None:
            raise ValueError(
                "speculative goes with MODEL; with engines, set it in each engine that shall speculate, and "
                "the embedded base cannot: it has guides"
            )
        if self.default_engine is not None and self.default_engine not in self.engine_table():
            raise ValueError(f"default_engine must be one of: {', '.join(self.engine_table())}")
        self.tls.context()  # raises what is wrong with its files before anything is loaded
        self._keys = self._read_keys()
        self.api_keys = []  # from here on there are only hashes
        if strangers := self.limits_by_key.keys() - {key.name for key in self._keys}:
            raise ValueError(f"limits_by_key: no API key has the name {min(strangers)}")
        if self.host not in LOOPBACK and not self.known_keys() and not self.allow_no_api_key:
            raise ValueError(
                f"host {self.host} is reachable from other machines, and no API key is configured: "
                "set api_keys or api_keys_file, or say allow_no_api_key"
            )
        return self

    # ---- what the settings amount to -------------------------------------------------------------------

    @property
    def is_embedded(self) -> bool:
        return self.model is None and not self.engines

    def engine_table(self) -> dict[str, EngineSettings]:
        if self.engines:
            return self.engines
        if self.model is not None:
            return {"base": EngineSettings(model=self.model, speculative=self.speculative)}
        guides = {"polite": f"{EMBEDDED}polite", "brief": f"{EMBEDDED}brief"}
        return {
            "base": EngineSettings(
                model=f"{EMBEDDED}base", guides=guides, cache_methods=["kvmerger", "snapkv", "streaming"]
            ),
            "small": EngineSettings(model=f"{EMBEDDED}small"),
        }

    def needs_processors(self) -> bool:
        """Whether an engine gets logits processors of ours, or other hooks into vLLM's model runner."""
        table = self.engine_table().values()
        several = len(table) > 1
        return any(
            e.guides or e.cache_methods or e.speculative is not None or (e.switching and several)
            for e in table
        )

    def default_engine_name(self) -> str:
        return self.default_engine or next(iter(self.engine_table()))

    def model_name(self) -> str:
        if self.served_model_name:
            return self.served_model_name
        if self.is_embedded:
            return "demo"
        model = self.engine_table()[self.default_engine_name()].model
        # A folder goes by its own name; its path is nobody's business and no good id.
        return Path(model).expanduser().resolve().name if Path(model).expanduser().is_dir() else model

    def preset_table(self) -> dict[str, PresetSettings]:
        """Presets by model id."""
        presets = dict(self.presets)
        if self.is_embedded:
            small = DecodingRequest.model_validate({"sequence": {"method": "plain", "engine": "small"}})
            presets.setdefault("small", PresetSettings(decoding=small, description="The small model alone."))
            # Short answers: see docs/benchmarks/2026-11-21-ead.md.
            rule = {"method": "ead", "threshold": 0.6, "window": 1, "dwell": 1, "switch": "now"}
            adaptive = DecodingRequest.model_validate({"sequence": rule})
            description = "The small model, and the base where it is unsure."
            presets.setdefault("ead", PresetSettings(decoding=adaptive, description=description))
            half = DecodingRequest.model_validate({"cache": {"method": "kvmerger", "budget": 0.5}})
            description = "Half of a long prompt's KV cache is merged away."
            presets.setdefault("kv50", PresetSettings(decoding=half, description=description))
            for names in (("polite",), ("brief",), ("polite", "brief")):
                genarm = {"logits": {"method": "genarm", "weights": dict.fromkeys(names, 1.0)}}
                decoding = DecodingRequest.model_validate(genarm)
                description = f"Guided to be {' and '.join(names)}."
                presets.setdefault(
                    "+".join(names), PresetSettings(decoding=decoding, description=description)
                )
        return {f"{self.model_name()}:{name}": preset for name, preset in presets.items()}

    def tool_parser(self) -> str | None:
        """The tool-call parser; the embedded models take hermes' format, by constraint, not by training."""
        return self.tool_call_parser or ("hermes" if self.is_embedded else None)

    def known_keys(self) -> list[ApiKey]:
        """The API keys, as they were when the settings were read."""
        return self._keys

    def _read_keys(self) -> list[ApiKey]:
        keys = [key.get_secret_value().strip() for key in self.api_keys]
        if self.api_keys_file is not None:
            try:
                lines = self.api_keys_file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"api_keys_file {self.api_keys_file} cannot be read: {error}") from None
            keys += [re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip() for line in lines]
        keys = [key for key in keys if key]
        if not keys and (self.api_keys or self.api_keys_file):
            raise ValueError("api_keys or api_keys_file is set, but holds no key")
        return read_keys(keys)


def check_variables(environ: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError for a DECANT_* variable that sets nothing."""
    prefix = "DECANT_"
    known = {name.upper() for name in ServeSettings.model_fields} | {MARK.removeprefix(prefix)}
    for variable in environ:
        if variable.upper().startswith(prefix):
            field = variable.upper().removeprefix(prefix).split("__", 1)[0]
            if field not in known:
                near = difflib.get_close_matches(field, known, n=1)
                hint = f"; did you mean {prefix}{near[0]}?" if near else ""
                raise ConfigError(f"{variable}: no setting has this name{hint}")


def use_config_file(path: Path | None) -> None:
    """Read `path` beneath variables and flags in every ServeSettings made from here on."""
    if path is not None and not path.is_file():
        raise ConfigError(f"config: {path} is not a file")
    if path is not None:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"config: {path} is not YAML: {reason}") from error
        if content is not None and not isinstance(content, dict):
            raise ConfigError(f"config: {path} must hold a mapping of settings")
    _config_file.set(path)
