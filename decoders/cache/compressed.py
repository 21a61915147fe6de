"""What the methods of the cache layer share: the budget, what stays as it is, and when it happens."""

from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from decoders.cache.settings import KEY, Settings
from decoders.deployment import Deployment, EngineFacts
from decoders.errors import Refusal
from decoders.exact import Exact
from decoders.method import CacheMethod


class WhileDecoding(Exact):
    """When the cache is compressed while the answer is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trigger: int = Field(
        ge=32, le=1 << 20, description="Compress when more tokens than this have come since the last time."
    )
    keep: int = Field(ge=0, le=1 << 20, description="Of these, the latest that stay as they are.")

    @model_validator(mode="after")
    def _keep_is_less(self) -> "WhileDecoding":
        if self.keep >= self.trigger:
            raise PydanticCustomError("keep", "keep must be less than trigger")
        return self


class CompressedMethod(CacheMethod):
    """A method that compresses a request's keys and values to a share of the prompt's."""

    budget: float = Field(
        default=0.5, gt=0, le=1, description="Share of the prompt's slots that is kept; 1 keeps all."
    )
    recent: int = Field(
        default=64, ge=0, le=1 << 20, description="Tokens at the prompt's end that stay as they are."
    )
    sinks: int = Field(
        default=4, ge=0, le=1024, description="Tokens at the prompt's beginning that stay as they are."
    )
    min_prompt: int = Field(
        default=128, ge=1, le=1 << 20, description="Shorter prompts, in tokens, are left as they are."
    )
    peak: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="About the share of the prompt's slots held at once while it is read. Below 1 a long "
        "prompt is compressed piece by piece (ours) and needs fewer free blocks; at 1 once, at its end.",
    )
    decode: WhileDecoding | None = Field(
        default=None,
        description="Compress again and again while the answer is written, so that the cache stays bounded.",
    )

    @model_validator(mode="after")
    def _budget_for_decode(self) -> "CompressedMethod":
        if self.decode is not None and self.budget >= 1:
            raise PydanticCustomError("decode", "decode needs a budget below 1")
        return self

    @classmethod
    def unavailable(cls, deployment: Deployment) -> str | None:
        name = _name(cls)
        if any(name in facts.cache_methods for facts in deployment.engines.values()):
            return None
        return "no engine here was started with it among its cache_methods"

    def check_engine(self, name: str, facts: EngineFacts) -> None:
        """Raise Refusal if this engine was not started with the method."""
        if self.method not in facts.cache_methods:
            allowed = ", ".join(facts.cache_methods) or "none"
            raise Refusal(
                f"Engine '{name}' was not started with this method; its cache_methods: {allowed}.",
                "decoding.cache.method",
            )

    @abstractmethod
    def settings(self) -> Settings:
        """What scheduler and worker are to do."""

    def shared_settings(self) -> dict[str, Any]:
        """Those of `settings()` that all methods have."""
        names = ("method", "budget", "recent", "sinks", "min_prompt", "peak")
        decode = (self.decode.trigger, self.decode.keep) if self.decode is not None else None
        return {**{name: getattr(self, name) for name in names}, "decode": decode}

    def engine_arguments(self) -> dict[str, Any]:
        return {KEY: self.settings().to_wire()} if self.budget < 1 else {}


def _name(cls: type[CompressedMethod]) -> str:
    annotation = cls.model_fields["method"].annotation
    return str(getattr(annotation, "__args__", ("",))[0])


def _odd(pool: int) -> int:
    if pool % 2 == 0:
        raise PydanticCustomError("pool", "pool must be odd")
    return pool


Adaptive = Literal["adaptive"]
Pool = Annotated[int, Field(ge=1, le=127), AfterValidator(_odd)]
