"""Speculative decoding on an engine that was started with it."""

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from decoders.deployment import NAMES_ENGINE, Deployment
from decoders.errors import Refusal
from decoders.method import Chunk, Job, SequenceMethod

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient


def speculating(deployment: Deployment) -> list[str]:
    """Names of the engines that speculate."""
    return [name for name, facts in deployment.engines.items() if facts.speculative is not None]


class Speculative(SequenceMethod):
    """Speculative decoding: drafts that the model verifies, with the model's own distribution.

    Speculation belongs to the engine: every request that runs on it is drafted for, plain ones too. This
    method asks for an engine that does.
    """

    paper: ClassVar[str | None] = "https://arxiv.org/abs/2211.17192"

    method: Literal["speculative"]
    engine: str | None = Field(
        default=None,
        max_length=128,
        json_schema_extra=NAMES_ENGINE,
        description="Name of the engine to run on; left out, the default engine if it speculates, else the "
        "first that does.",
    )

    @classmethod
    def unavailable(cls, deployment: Deployment) -> str | None:
        if not speculating(deployment):
            return "no engine was started with the option `speculative`"
        return None

    def check_deployment(self, deployment: Deployment) -> None:
        names = speculating(deployment)
        if self.engine is not None and self.engine not in names:
            raise Refusal(
                f"No engine of that name speculates here; these do: {', '.join(names)}.",
                "decoding.sequence.engine",
            )

    def direct(self, deployment: Deployment) -> str:
        names = speculating(deployment)
        return self.engine or (deployment.default if deployment.default in names else names[0])

    def generate(self, job: Job, engines: "Mapping[str, EngineClient]") -> AsyncGenerator[Chunk, None]:
        raise AssertionError("speculative decoding is handed to the engine as it is")
