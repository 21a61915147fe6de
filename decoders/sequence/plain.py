"""Plain decoding on one engine."""

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from decoders.deployment import NAMES_ENGINE, Deployment
from decoders.method import Chunk, Job, SequenceMethod

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient


class Plain(SequenceMethod):
    """vLLM's own decoding, on the engine of your choice and with nothing in between."""

    method: Literal["plain"]
    engine: str | None = Field(
        default=None,
        max_length=128,
        json_schema_extra=NAMES_ENGINE,
        description="Name of the engine to run on; the server's default if left out.",
    )

    def check_deployment(self, deployment: Deployment) -> None:
        deployment.check_engine(self.engine)

    def direct(self, deployment: Deployment) -> str:
        return self.engine or deployment.default

    def generate(self, job: Job, engines: "Mapping[str, EngineClient]") -> AsyncGenerator[Chunk, None]:
        raise AssertionError("plain decoding is handed to the engine as it is")
