"""The frame of a decoding method: its request parameters, and when a server can offer it.

A method is one class in one file. Its pydantic fields are the request's parameters (each with meaning, unit
and bounds), `method` is the literal that selects it, and its docstring names the paper and the equation. It
is offered once it stands in `decoders/registry.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict

from decoders.deployment import Deployment, EngineFacts
from decoders.exact import Exact
from decoders.report import Report

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient
    from vllm.logprobs import Logprob
    from vllm.sampling_params import SamplingParams

    from decoders.sequence.candidates.phrasing import Phrasing


class Method(Exact, ABC):
    """A decoding method with the parameters of one request."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    layer: ClassVar[str]
    paper: ClassVar[str | None] = None
    method: str

    @classmethod
    def unavailable(cls, deployment: Deployment) -> str | None:
        """Why this server does not offer the method, in words; None if it does."""
        return None

    def check_deployment(self, deployment: Deployment) -> None:
        """Raise Refusal for a parameter that names something this server does not have."""

    def check_sampling(self, params: "SamplingParams") -> None:
        """Raise Refusal for a sampling parameter this method cannot honour."""

    def describe(self, report: Report) -> None:
        """Write the method's name and parameters into its layer of the report."""
        report.layer(self.layer).update(self.model_dump(mode="json", exclude_none=True))


@dataclass
class Chunk:
    """Tokens of one choice, in order, with what vLLM's output processor wants to know of them.

    `logprobs` holds one dict a token, the sampled token first. `finish_reason` is set on the last chunk only.
    `num_cached_tokens` is the prompt's share found in the prefix cache, set on the first chunk only.
    """

    token_ids: list[int]
    engine: str
    logprobs: "list[dict[int, Logprob]] | None" = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    num_cached_tokens: int | None = None


@dataclass
class Job:
    """Choice `index` of one request: `params.n` is 1, and `id` is unique in the server.

    For a ChoosingMethod all choices at once: `choices` is how many it is to return. `phrasing` puts the
    request's question to the model in other words, where the caller's question is known as text.
    """

    id: str
    prompt_token_ids: list[int]
    params: "SamplingParams"
    report: Report
    deployment: Deployment
    index: int = 0
    cache_salt: str | None = None
    priority: int = 0
    choices: int = 1
    phrasing: "Phrasing | None" = None


@dataclass(frozen=True)
class Circumstances:
    """What a request meets when it arrives: `running` other requests, and its own prompt and parameters."""

    deployment: Deployment
    running: int
    prompt_tokens: int
    params: "SamplingParams"


class SequenceMethod(Method):
    """How whole sequences are produced and chosen."""

    layer: ClassVar[str] = "sequence"

    def divides(self) -> bool:
        """Whether an answer is written by several requests, each of which reads what was written before."""
        return False

    def resolve(self, circumstances: Circumstances, report: Report) -> "SequenceMethod":
        """The method that runs the request, where that depends on the circumstances."""
        return self

    def engines(self, deployment: Deployment) -> list[str]:
        """The engines that may run the request."""
        name = self.direct(deployment)
        return [name] if name is not None else list(deployment.engines)

    def direct(self, deployment: Deployment) -> str | None:
        """The one engine the request can be handed to as it is, or None if `generate` must run it."""
        return None

    @abstractmethod
    def generate(self, job: Job, engines: "Mapping[str, EngineClient]") -> AsyncGenerator[Chunk, None]:
        """Yield the choice's tokens in order; cancelling the iteration must end all engine work."""


class ChoosingMethod(SequenceMethod):
    """Makes candidate answers and chooses among them: a request's n choices come from one run."""

    @abstractmethod
    def most_candidates(self) -> int:
        """How many candidates one request may make; each may have all of `max_tokens`."""

    @abstractmethod
    async def choose(self, job: Job, engines: "Mapping[str, EngineClient]") -> list[Chunk]:
        """`job.choices` whole answers, the best one first; cancelling it must end all engine work."""

    def generate(self, job: Job, engines: "Mapping[str, EngineClient]") -> AsyncGenerator[Chunk, None]:
        raise AssertionError("a method that chooses returns all choices at once")


class EngineMethod(Method):
    """A method whose work is done inside the engine that runs the request."""

    def check_engine(self, name: str, facts: EngineFacts) -> None:
        """Raise Refusal for what this engine cannot do for the request."""

    @abstractmethod
    def engine_arguments(self) -> dict[str, Any]:
        """What the engine's half reads: plain values for `SamplingParams.extra_args`."""

    def cache_salt(self) -> str | None:
        """What keeps this request's cached blocks apart from other requests'; None: nothing."""
        return None


class LogitsMethod(EngineMethod):
    """What the next-token distribution is; runs in the engine's worker."""

    layer: ClassVar[str] = "logits"


class CacheMethod(EngineMethod):
    """What of the context is kept; runs in the engine's scheduler and attention backend."""

    layer: ClassVar[str] = "cache"
