"""Plain decoding on one engine."""

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from decoders.deployment import Deployment
from decoders.errors import Refusal
from decoders.method import Chunk, Job, SequenceMethod

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient


class Plain(SequenceMethod):
    """vLLM's own decoding, on the engine of your choice and with nothing in between."""

    method: Literal["plain"]
    engine: str | None = Field(
        default=None,
        max_length=128,
        description="Name of the engine to run on; the server's default if left out.",
    )

    def check_deployment(self, deployment: Deployment) -> None:
        if self.engine is not None and self.engine not in deployment.engines:
            names = ", ".join(deployment.engines)
            raise Refusal(
                f"This server has no engine of that name; it has: {names}.", "decoding.sequence.engine"
            )

    def direct(self, deployment: Deployment) -> str:
        return self.engine or deployment.default

    def generate(self, job: Job, engines: "Mapping[str, EngineClient]") -> AsyncGenerator[Chunk, None]:
        raise AssertionError("plain decoding is handed to the engine as it is")
