"""What `decant calibrate` is told. Unlike a server's, its settings come from flags alone."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, FilePath, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from decoders.sequence.candidates.conformal_set import SetScore
from decoders.sequence.switching.rule import MAX_WINDOW
from server.config import Name

KEY_VARIABLE = "DECANT_API_KEY"
PLOTS = (".svg", ".png")


def _web_address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return url.rstrip("/").removesuffix("/v1")


def _in_a_folder(path: Path) -> Path:
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist")
    return path


OutFile = Annotated[Path, AfterValidator(_in_a_folder)]


def _drawable(path: Path) -> Path:
    if path.suffix not in PLOTS:
        raise ValueError(f"must end in {' or '.join(PLOTS)}")
    return path


PlotFile = Annotated[OutFile, AfterValidator(_drawable)]


class ServerSettings(BaseSettings):
    """What is told of the server to ask, and of the preset that comes of it."""

    prompt_as: Literal["chat", "text"] = Field(
        default="chat", description="chat: a prompt is a user's message; text: it is completed as it stands."
    )
    url: Annotated[str, AfterValidator(_web_address)] | None = Field(
        default=None, description="A running Decant server; left out, one is started."
    )
    config: FilePath | None = Field(
        default=None, description="Configuration of the server to start; left out, the embedded models."
    )
    api_key: SecretStr | None = Field(
        default=None, description=f"The server's API key; others can read flags: prefer {KEY_VARIABLE}."
    )
    model: str | None = Field(default=None, description="Model id; the server's own if left out.")
    concurrency: int = Field(
        default=8, ge=1, le=1024, description="Requests at once; the cost depends on it."
    )
    write_preset: OutFile | None = Field(
        default=None, description="Write the choice as YAML that `decant serve --config` reads."
    )
    name: Name = Field(default="calibrated", description="The preset's name; it is served as MODEL:NAME.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if "name" in self.model_fields_set and self.write_preset is None:
            raise ValueError("name does nothing without write_preset")
        if self.url is not None and self.config is not None:
            raise ValueError("config is for a server to start; give url or config, not both")
        if self.url is None and self.api_key is not None:
            raise ValueError("api_key does nothing without url: a server that is started here gets its own")
        return self

    def key(self) -> str | None:
        """The API key for the server at `url`."""
        return self.api_key.get_secret_value() if self.api_key else os.environ.get(KEY_VARIABLE)


class AskingSettings(ServerSettings):
    """What every calibration is told: its questions, and the server to ask."""

    data: FilePath = Field(
        description="JSONL; in each line prompt (text) or messages (a chat), and in all lines or none answer "
        "(text, or a list of accepted ones)."
    )
    limit: int | None = Field(default=None, ge=1, description="Use only this many lines, from the first on.")
    match: Literal["exact", "end"] = Field(
        default="exact",
        description="exact: the whole answer or its last line is an accepted one; end: it ends with one.",
    )


class ConformalSettings(AskingSettings):
    """Choose the conformal method's thresholds on labelled questions, with a guarantee."""

    model_config = SettingsConfigDict(
        extra="forbid",
        cli_prog_name="decant calibrate conformal",
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    eps: float = Field(
        default=0.1, gt=0, lt=1, description="Largest share of sets without an acceptable answer."
    )
    delta: float = Field(
        default=0.05, gt=0, lt=1, description="Chance that the calibration may fail to hold eps."
    )
    candidates: int = Field(default=8, ge=2, le=1024, description="Most samples for one question.")
    max_tokens: int = Field(default=256, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(default=1.0, gt=0, le=2, description="Of sampling; requests need the same.")
    quality: Literal["logprob", "verdict"] = Field(
        default="logprob", description="What a sample's quality is, as in the method."
    )
    set_score: SetScore = Field(default="max", description="What a set's score is, as in the method.")
    seed: int = Field(default=0, ge=0, description="Of the samples and of the split.")


class EadSettings(AskingSettings):
    """Measure entropy-adaptive decoding over its threshold on your prompts, and choose a threshold."""

    model_config = SettingsConfigDict(
        extra="forbid",
        cli_prog_name="decant calibrate ead",
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    small: str | None = Field(
        default=None, max_length=128, description="Engine of the small model; the other one of two."
    )
    large: str | None = Field(
        default=None, max_length=128, description="Engine of the large model; the server's default."
    )
    switch: Literal["next", "now"] = Field(default="next", description="EAD's timing, as in a request.")
    window: int = Field(default=5, ge=1, le=MAX_WINDOW, description="Tokens the mean entropy is taken over.")
    dwell: int = Field(default=10, ge=1, le=65536, description="Least tokens between two switches.")
    thresholds: int = Field(default=9, ge=1, le=99, description="Thresholds to measure, at most.")
    max_tokens: int = Field(default=512, ge=1, description="Longest answer, in tokens.")
    state: OutFile | None = Field(
        default=None,
        description="Where answers are kept as they come, to go on from; DATA.ead.jsonl beside the data.",
    )
    share: float | None = Field(
        default=None, ge=0, le=1, description="Choose the greatest share of large-model tokens up to this."
    )
    quality: float | None = Field(
        default=None, gt=0, description="Choose the cheapest with this much of the large model's quality."
    )
    plot: PlotFile | None = Field(default=None, description="Draw the curve into this .svg or .png file.")

    @model_validator(mode="after")
    def _consistent(self) -> "EadSettings":
        if self.share is not None and self.quality is not None:
            raise ValueError("give share or quality, not both")
        if self.write_preset is not None and self.share is None and self.quality is None:
            raise ValueError("write_preset needs share or quality, to know which preset")
        return self

    def state_file(self) -> Path:
        return self.state or self.data.with_name(f"{self.data.name}.ead.jsonl")

    def measured(self) -> dict[str, Any]:
        """The settings that answers depend on: a state of others cannot be gone on with."""
        names = {"prompt_as", "model", "small", "large", "switch", "window", "dwell", "thresholds"}
        return self.model_dump(mode="json", include=names | {"max_tokens", "concurrency"})
