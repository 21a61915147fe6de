"""What `decant bench` is told, by flags alone."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, DirectoryPath, Field, FilePath, model_validator
from pydantic_settings import SettingsConfigDict

from server.bench.methods import Setting, read_settings
from server.bench.tasks import EACH, EMBEDDED, GRADED, HARNESS, Task, embedded, from_file
from server.calibration.settings import OutFile, PlotFile, ServerSettings
from server.config import Name

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PRICED = ("prompt", "output")  # beside the engines' names


def _known_task(name: str) -> str:
    if name.startswith(HARNESS) and len(name) > len(HARNESS):
        return name
    if name == "embedded" or name in GRADED:
        return name
    raise ValueError(f"must be embedded, {HARNESS}NAME, or one of {', '.join(GRADED)}")


class BenchSettings(ServerSettings):
    """Compare decoding settings on a task: quality, tokens, seconds and cost, beside plain decoding.

    Without a server's url one is started; without data or task the embedded models' own questions are asked.
    """

    model_config = SettingsConfigDict(
        extra="forbid",
        cli_prog_name="decant bench",
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    data: FilePath | None = Field(
        default=None,
        description="JSONL; in each line prompt (text) or messages (a chat), answer (text, number, or a list "
        "of accepted ones), and perhaps choices, matcher and pattern.",
    )
    task: Annotated[str, AfterValidator(_known_task)] | None = Field(
        default=None,
        description=f"embedded (held-out questions of the embedded models: {', '.join(EMBEDDED)}), one of "
        f"their kinds, or {HARNESS}NAME, a task of lm-evaluation-harness.",
    )
    harness_path: DirectoryPath | None = Field(
        default=None, description="Folder with YAML files of your own lm-evaluation-harness tasks."
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description=f"Questions, from the first on; of each kind for embedded ones ({EACH}).",
    )
    matcher: Literal["exact", "last_line", "end", "contains", "number", "choice", "boxed", "regex"] | None = (
        Field(default=None, description="What makes an answer right, for lines of data that do not say.")
    )
    pattern: str | None = Field(
        default=None, max_length=512, description="Regular expression of the matcher regex."
    )
    settings: FilePath | None = Field(
        default=None, description="YAML list of settings to compare: name, decoding, model, request."
    )
    setting: list[Setting] = Field(
        default=[],
        description="One such setting, as JSON; may be repeated. Without any: what the server offers.",
    )
    max_tokens: int = Field(default=256, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(
        default=1.0, gt=0, le=2, description="Of methods that sample candidates; all others are greedy."
    )
    turns: int = Field(default=1, ge=1, le=100, description="How often every question is asked.")
    seed: int = Field(default=0, ge=0, lt=1 << 31, description="Of sampling, and of the order of questions.")
    concurrency: int = Field(
        default=4, ge=1, le=1024, description="Requests at once; the cost depends on it."
    )
    price: dict[str, Price] = Field(
        default={},
        description="Per million tokens, to count cost in money: prompt=P (tokens read), output=P, ENGINE=P.",
    )
    name: Name = Field(default="chosen", description="The preset's name; it is served as MODEL:NAME.")
    margin: float = Field(
        default=0.05, gt=0, lt=1, description="Quality that may be given up for cost, at most."
    )
    goal: Literal["quality", "cost"] = Field(
        default="quality",
        description="Which to prefer, where both something better and something cheaper is shown.",
    )
    state: OutFile | None = Field(
        default=None,
        description="Where answers are kept as they come, to go on from; DATA.bench.jsonl beside the data, "
        "else decant-bench.jsonl here.",
    )
    plot: PlotFile | None = Field(
        default=None, description="Draw quality against cost into this .svg or .png."
    )
    json_out: OutFile | None = Field(default=None, description="Write everything that was found as JSON.")
    csv: OutFile | None = Field(default=None, description="Write the table as CSV.")
    markdown: OutFile | None = Field(default=None, description="Write the table and the choice as Markdown.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.data is not None and self.task is not None:
            raise ValueError("give data or task, not both")
        if self.data is None and (self.matcher is not None or self.pattern is not None):
            raise ValueError("matcher and pattern are for data; leave them out beside a task")
        if self.pattern is not None and self.matcher != "regex":
            raise ValueError("pattern needs matcher regex")
        if self.settings is not None and self.setting:
            raise ValueError("give settings (a file) or setting, not both")
        if self.harness_path is not None and not (self.task or "").startswith(HARNESS):
            raise ValueError(f"harness_path is for a task {HARNESS}NAME")
        if self.price and "output" not in self.price:
            raise ValueError("price: output is needed, for tokens of engines without a price of their own")
        return self

    def questions(self) -> Task:
        """The task. Raises CalibrationError for one that is none."""
        if self.data is not None:
            return from_file(self.data, self.limit, self.matcher, self.pattern)
        name = self.task or "embedded"
        if name.startswith(HARNESS):
            from server.bench.harness import from_harness

            return from_harness(name.removeprefix(HARNESS), self.harness_path, self.limit)
        return embedded(EMBEDDED if name == "embedded" else (name,), self.limit or EACH)

    def given(self) -> list[Setting]:
        """The caller's settings, none if the server's own are to be taken. Raises CalibrationError."""
        return read_settings(self.settings) if self.settings is not None else list(self.setting)

    def state_file(self) -> Path:
        if self.state is not None:
            return self.state
        return (
            self.data.with_name(f"{self.data.name}.bench.jsonl") if self.data else Path("decant-bench.jsonl")
        )

    def measured(self) -> dict[str, Any]:
        """What answers depend on: a state of others cannot be gone on with."""
        names = {"prompt_as", "model", "max_tokens", "temperature", "turns", "seed", "concurrency"}
        told = self.model_dump(mode="json", include=names)
        given = self.given()
        text = json.dumps([one.model_dump(exclude_defaults=True) for one in given], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return {**told, "compared": f"{len(given)} settings ({digest})" if given else "what is offered"}
