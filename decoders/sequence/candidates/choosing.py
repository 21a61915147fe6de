"""The frame of methods that sample candidates and choose among them."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from decoders.cache import settings as cache
from decoders.deployment import NAMES_ENGINE, Deployment
from decoders.errors import Refusal
from decoders.logits.wire import REPORT
from decoders.method import ChoosingMethod, Chunk, Job
from decoders.sequence.candidates.answers import Extract, Whole, grouped
from decoders.sequence.candidates.phrasing import phrasing_of
from decoders.sequence.candidates.sampling import Sample, by_likelihood, draw
from decoders.sequence.candidates.scoring import Scores, score

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient
    from vllm.sampling_params import SamplingParams

MOST: Final = 1024  # candidates that any server can be set to allow
# What requests that score leave out: reports are the samples', and scores are of the whole context.
NOT_OF_SCORES: Final = frozenset({REPORT, cache.KEY, cache.REPORT})


@dataclass
class Candidate:
    """Samples that give the same answer, the most likely one (by token) first; `scores` is the method's."""

    answer: str
    samples: list[Sample]
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> Sample:
        return self.samples[0]


@dataclass
class Desk:
    """Where the candidates of one job are scored, on the engine `name`, and booked in the job's report.

    most: tokens that the candidates of one prompt may have together. None: as many as there may be. notes:
    what a method knows of the samples, by their id().
    """

    job: Job
    engine: "EngineClient"
    name: str
    most: int | None = None
    asked: int = 0
    notes: dict[int, Any] = field(default_factory=dict)

    async def score(
        self,
        prompt: list[int],
        candidates: list[list[int]],
        *,
        cache_salt: str | None = None,
        extra_args: dict[str, Any] | None = None,
    ) -> Scores:
        """Scores under the job's own distribution, or the one that `extra_args`, with its salt, asks for.

        Both are of the whole context, also where the samples' cache was compressed.

        Raises Refusal where prompt and candidate do not fit into the context.
        """
        job = self.job
        self._check(prompt, candidates)
        if extra_args is None:
            cache_salt = job.cache_salt
            extra_args = {k: v for k, v in (job.params.extra_args or {}).items() if k not in NOT_OF_SCORES}
        self.asked += 1
        scores = await score(
            self.engine,
            prompt,
            candidates,
            id=f"{job.id}/score-{self.asked}",
            cache_salt=cache_salt,
            priority=job.priority,
            extra_args=extra_args or None,
        )
        job.report.spent["scored"] += scores.computed
        layer = job.report.layer("sequence")
        layer["scored_tokens"] = layer.get("scored_tokens", 0) + scores.computed
        return scores

    def _check(self, prompt: list[int], candidates: list[list[int]]) -> None:
        together = sum(map(len, candidates))
        if self.most is not None and together > self.most:
            raise Refusal(
                f"The candidates have {together} tokens; this server allows {self.most} in one request.",
                "candidates",
            )
        tokens = len(prompt) + max(map(len, candidates))
        room = self.job.deployment.engines[self.name].max_model_len - 1
        if tokens > room:
            raise Refusal(
                f"A candidate has {tokens} tokens with its question and the templates' words; engine "
                f"'{self.name}' can score at most {room}.",
                "candidates",
            )


class CandidateMethod(ChoosingMethod):
    """Samples `candidates` answers in one batch, tells apart those that differ, and ranks them."""

    candidates: int = Field(default=8, ge=2, le=MOST, description="Answers to sample.")
    extract: Extract = Field(
        default=Whole(type="whole"),
        description="What of an answer counts: candidates with the same are one; answers without any come "
        "last.",
    )
    engine: str | None = Field(
        default=None,
        max_length=128,
        description="Engine to run on; the server's default if left out.",
        json_schema_extra=NAMES_ENGINE,
    )

    def check_deployment(self, deployment: Deployment) -> None:
        deployment.check_engine(self.engine)
        self.extract.check()

    def engines(self, deployment: Deployment) -> list[str]:
        return [self.engine or deployment.default]

    def most_candidates(self) -> int:
        return self.candidates

    def check_sampling(self, params: "SamplingParams") -> None:
        if params.n > self.candidates:
            raise Refusal(f"n may be at most the {self.candidates} candidates.", "n")
        if params.temperature == 0:
            raise Refusal(
                f"temperature must be above 0: '{self.method}' chooses among sampled answers, which would "
                f"all be "
                "the same.",
                "temperature",
            )
        for name in ("prompt_logprobs", "logprob_token_ids"):
            if getattr(params, name) is not None:
                raise Refusal(f"{name} cannot be combined with '{self.method}'.", name)

    async def choose(self, job: Job, engines: "Mapping[str, EngineClient]") -> list[Chunk]:
        name = self.engine or job.deployment.default
        if self.asks_in_other_words():  # said before anything is sampled, or streamed
            phrasing_of(job.phrasing, self.method).require()
        desk = Desk(job, engines[name], name)
        samples = await self.sample(desk)
        pool, rest = pooled(samples, self.extract)
        order = await self.rank(pool, desk) if pool else []
        ranked = [pool[index] for index in order]
        self._report(job, ranked, rest)
        return delivered(ranked, rest, job, name)

    def asks_in_other_words(self) -> bool:
        """Whether the question is put to the model in other words, so that it has to be text."""
        return False

    async def sample(self, desk: Desk) -> list[Sample]:
        """The samples to choose among, in order of their index."""
        samples = draw(desk.job, desk.engine, desk.name, self.candidates, f"{desk.job.id}/sample")
        async with aclosing(samples) as drawn:
            found = [one async for one in drawn]
        return sorted(found, key=lambda one: one.index)

    @abstractmethod
    async def rank(self, pool: list[Candidate], desk: Desk) -> list[int]:
        """The candidates' indices, best first, with every candidate's `scores` filled in."""

    def _report(self, job: Job, ranked: Sequence[Candidate], rest: Sequence[Sample]) -> None:
        layer = job.report.layer(self.layer)
        layer["candidates"] = [_row(one.best, len(one.samples), one.answer, one.scores) for one in ranked]
        layer["candidates"] += [_row(one, 1, None, {}) for one in rest]


def pooled(samples: Sequence[Sample], extract: Any) -> tuple[list[Candidate], list[Sample]]:
    """Distinct candidates in order of their first sample, and the samples that give no answer."""
    whole = [one for one in samples if one.finish_reason not in ("error", "abort")]
    answers = [extract.answer(one.text) for one in whole]
    pool = []
    for group in grouped(answers):
        same = by_likelihood([whole[index] for index in group])
        pool.append(Candidate(extract.answer(same[0].text), same))
    within = {id(one) for candidate in pool for one in candidate.samples}
    return pool, by_likelihood([one for one in samples if id(one) not in within])


def delivered(ranked: Sequence[Candidate], rest: Sequence[Sample], job: Job, engine: str) -> list[Chunk]:
    """The choices: of each candidate its likeliest sample, then what gave no answer, then the others.

    A request may ask for more choices than there are distinct candidates.
    """
    order = [one.best for one in ranked] + list(rest)
    order += [sample for one in ranked for sample in one.samples[1:]]
    asked = job.params.logprobs is not None
    chunks = [one.chunk(engine, with_logprobs=asked) for one in order[: job.choices]]
    chunks[0].num_cached_tokens = job.report.layer("sequence").get("cached_tokens")
    return chunks


def _row(sample: Sample, count: int, answer: str | None, scores: Mapping[str, float]) -> dict[str, Any]:
    """A candidate in the report."""
    return {
        "sample": sample.index,
        "text": sample.text,
        "answer": answer,
        "count": count,
        "tokens": len(sample.token_ids),
        "logprob": sample.logprob,
        "finish_reason": sample.finish_reason,
        "scores": {name: finite(value) for name, value in scores.items()},
    }


def finite(value: float) -> float:
    """JSON has no infinities: the bounds that vLLM gives log-probabilities."""
    return max(-9999.0, min(9999.0, value)) if abs(value) == float("inf") else value
