"""Candidates drawn from the model in one batch on a shared prompt, handed over as they are complete."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from decoders.method import Chunk, Job

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient
    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput
    from vllm.sampling_params import SamplingParams


@dataclass
class Sample:
    """One sampled answer. logprobs: a dict a token, the sampled token first. text: as the caller would see
    it.
    """

    index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: "list[dict[int, Logprob]]" = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def add(self, choice: "CompletionOutput") -> None:
        self.token_ids += choice.token_ids
        self.logprobs += choice.logprobs or ()
        self.text += choice.text
        self.finish_reason, self.stop_reason = choice.finish_reason, choice.stop_reason

    @property
    def logprob(self) -> float:
        """log P of its tokens, the one that ends it included, at temperature 1."""
        rows = zip(self.token_ids, self.logprobs, strict=True)
        return float(sum(row[token].logprob for token, row in rows))

    @property
    def mean_logprob(self) -> float:
        """The same by token."""
        return self.logprob / max(1, len(self.token_ids))

    def chunk(self, engine: str, *, with_logprobs: bool) -> Chunk:
        """The whole answer, for the caller."""
        logprobs = list(self.logprobs) if with_logprobs else None
        return Chunk(list(self.token_ids), engine, logprobs, self.finish_reason, self.stop_reason)


def parameters(params: "SamplingParams", count: int) -> "SamplingParams":
    """What is asked of the engine for `count` candidates: all that the caller asked for, and their
    logprobs.
    """
    from vllm.sampling_params import RequestOutputKind

    made = params.clone()
    made.n, made.output_kind, made.detokenize = count, RequestOutputKind.DELTA, True
    made.stream_interval = None
    if made.logprobs is None:
        made.logprobs = 0
    return made


async def draw(
    job: Job, engine: "EngineClient", name: str, count: int, id: str
) -> AsyncGenerator[Sample, None]:
    """`count` samples of the job's prompt, each when it is complete; closing it ends those that are not.

    Every token that came is booked in the job's report. Raises nothing of its own.
    """
    from vllm.inputs.engine import tokens_input

    prompt = tokens_input(list(job.prompt_token_ids), cache_salt=job.cache_salt)
    params = parameters(job.params, count)
    samples = [Sample(index) for index in range(count)]
    layer = job.report.layer("sequence")
    async with aclosing(engine.generate(prompt, params, id, priority=job.priority)) as outputs:
        async for output in outputs:
            layer.setdefault("cached_tokens", output.num_cached_tokens or 0)
            for choice in output.outputs:
                sample = samples[choice.index]
                sample.add(choice)
                job.report.spent["sampled"] += len(choice.token_ids)
                job.report.add_tokens(name, len(choice.token_ids))
            for choice in output.outputs:
                if choice.finish_reason is not None:
                    yield samples[choice.index]


def by_likelihood(samples: Sequence[Sample]) -> list[Sample]:
    """The most likely by token first."""
    return sorted(samples, key=lambda one: (-one.mean_logprob, one.index))
