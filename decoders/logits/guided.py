"""What the methods of the logits layer share: guides by name, the entropy gate, whose logprobs count."""

import json
from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import PydanticCustomError

from decoders.deployment import NAMES_GUIDE, Deployment, EngineFacts
from decoders.errors import Refusal
from decoders.logits.guidance import Guidance
from decoders.logits.wire import KEY
from decoders.method import LogitsMethod

GuideName = Annotated[str, Field(min_length=1, max_length=64, json_schema_extra=NAMES_GUIDE)]
Weight = Annotated[float, Field(ge=-1000, le=1000)]
MOST_GUIDES = 16


def named_once(names: list[str]) -> list[str]:
    """For a field that names several guides."""
    if len(set(names)) < len(names):
        raise PydanticCustomError("twice", "A guide is named twice")
    return names


def guides_salt(guidance: Guidance) -> str | None:
    """What keeps cached blocks apart: a guide's keys and values are computed only in steps that use it."""
    used = guidance.guides()
    return f"decant.guides:{json.dumps(used)}" if used else None


class GuidedMethod(LogitsMethod):
    """A next-token distribution made of the base's logits and those of guides in the same engine."""

    entropy_gate: float | None = Field(
        default=None,
        ge=0,
        description="Guide only where the base's entropy in bits exceeds this (ours, after arXiv 2602.21215)",
    )
    logprobs: Literal["guided", "base"] = Field(
        default="guided",
        description="Whose log-probabilities `logprobs` reports; prompt_logprobs are the base's.",
    )

    @abstractmethod
    def guidance(self) -> Guidance:
        """What the worker is to do."""

    @classmethod
    def unavailable(cls, deployment: Deployment) -> str | None:
        if any(facts.guides for facts in deployment.engines.values()):
            return None
        return "no engine here was started with guides"

    @abstractmethod
    def named(self) -> list[tuple[str, str]]:
        """Every guide the request names, with the field that names it, below `decoding.logits`."""

    def check_engine(self, name: str, facts: EngineFacts) -> None:
        """Raise Refusal for a guide that this engine lacks."""
        for guide, where in self.named():
            if guide not in facts.guides:
                allowed = ", ".join(facts.guides) or "none"
                raise Refusal(
                    f"Engine '{name}' has no such guide; its guides: {allowed}.", f"decoding.logits.{where}"
                )

    def engine_arguments(self) -> dict[str, Any]:
        return {KEY: self.guidance().to_wire()}

    def cache_salt(self) -> str | None:
        return guides_salt(self.guidance())
