"""Entropy-adaptive decoding: the small model writes, and where it is unsure the large one takes over."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from decoders.deployment import NAMES_ENGINE, Deployment
from decoders.errors import Refusal
from decoders.method import Chunk, Job, SequenceMethod
from decoders.sequence.segments import piece, refuse_whole
from decoders.sequence.switching.rule import MAX_WINDOW, Rule

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams

Role = Literal["small", "large"]


@dataclass
class Answer:
    """One choice while it is written: its tokens, prompt included, and what a next segment must know."""

    job: Job
    limit: int  # tokens the answer may have
    tokens: list[int]
    segments: list[tuple[str, int]] = field(default_factory=list)  # engine and tokens of each
    entropies: list[float] = field(default_factory=list)  # bits; of all tokens if traced, else the last ones
    noted: int = 0  # tokens whose entropies were fetched
    trace: dict[str, Any] | None = None
    cached: int | None = None  # prompt tokens found in the first engine's cache

    @property
    def emitted(self) -> int:
        return len(self.tokens) - len(self.job.prompt_token_ids)


class EntropyAdaptive(SequenceMethod):
    """Entropy-adaptive decoding (EAD): a large model decodes only where a small one's entropy is high.

    H_t = -sum p log2 p over the whole vocabulary, in bits, at temperature 1 and before any truncation, of the
    model that decodes position t. The large model decodes while the mean of the last `window` values exceeds
    `threshold`, the small one otherwise, with at least `dwell` tokens between switches (arXiv 2502.06833,
    section 3). `switch="next"` is the paper's timing; with "now" (ours) the token whose entropy crossed the
    threshold is itself decided by the other model.

    Every segment is a request of its own to its engine, with prefix caching; the engine decides where it
    ends. Penalties and bad words see the whole answer. Raises Refusal for what a divided answer cannot have.
    """

    paper: ClassVar[str | None] = "https://arxiv.org/abs/2502.06833"

    method: Literal["ead"]
    small: str | None = Field(
        default=None,
        max_length=128,
        json_schema_extra=NAMES_ENGINE,
        description="Engine of the small model; the server's other one if left out.",
    )
    large: str | None = Field(
        default=None,
        max_length=128,
        json_schema_extra=NAMES_ENGINE,
        description="Engine of the large model; the server's default if left out.",
    )
    threshold: float = Field(
        default=1.0,
        description="Bits: the large model decodes where the mean entropy exceeds it.",
    )
    window: int = Field(default=5, ge=1, le=MAX_WINDOW, description="Tokens the mean entropy is taken over.")
    dwell: int = Field(default=10, ge=1, le=65536, description="Least tokens between two switches.")
    switch: Literal["next", "now"] = Field(
        default="next",
        description="next: the other model takes over after the token that crossed the threshold (paper); "
        "now: it decides that token.",
    )
    start: Role = Field(default="small", description="The model that begins.")
    trace: bool = Field(
        default=False,
        description="Report every token's entropy and every segment; takes effect with `report`.",
    )

    @classmethod
    def unavailable(cls, deployment: Deployment) -> str | None:
        able = [name for name, facts in deployment.engines.items() if facts.switches]
        if len(able) < 2:
            return "it needs two engines that can switch (several engines, none of the two speculating)"
        if deployment.spare_token is None:
            return "the vocabulary has no token to spare (padding, unknown, or an id that no token has)"
        return None

    def check_deployment(self, deployment: Deployment) -> None:
        small, large = self.pair(deployment)
        if small == large:
            raise Refusal(
                f"small and large must be different engines; both are '{small}'.", "decoding.sequence.small"
            )

    def divides(self) -> bool:
        return True

    def check_sampling(self, params: "SamplingParams") -> None:
        refuse_whole(params, self.method)

    def engines(self, deployment: Deployment) -> list[str]:
        return list(self.pair(deployment))

    def pair(self, deployment: Deployment) -> tuple[str, str]:
        """The engines (small, large)."""
        able = [name for name, facts in deployment.engines.items() if facts.switches]
        for role, name in (("small", self.small), ("large", self.large)):
            if name is not None and name not in able:
                raise Refusal(
                    f"{role} must be one of the engines that can switch: {', '.join(able)}.",
                    f"decoding.sequence.{role}",
                )
        large = self.large or next(
            name for name in (deployment.default, *able) if name in able and name != self.small
        )
        others = [name for name in able if name != large]
        if self.small is None and len(others) != 1:
            raise Refusal(f"small must be named, one of: {', '.join(others)}.", "decoding.sequence.small")
        return self.small or others[0], large

    async def generate(self, job: Job, engines: "Mapping[str, EngineClient]") -> AsyncGenerator[Chunk, None]:
        small, large = self.pair(job.deployment)
        stop = job.deployment.spare_token
        assert stop is not None
        if stop in (job.params.stop_token_ids or ()):
            raise Refusal(f"stop_token_ids must not hold {stop}: it ends segments here.", "stop_token_ids")
        answer = Answer(job, self._limit(job, (small, large)), list(job.prompt_token_ids))
        layer = job.report.layer(self.layer)
        for name in ("switches", "recomputed_tokens"):
            layer.setdefault(name, 0)
        active = small if self.start == "small" else large
        while True:
            rule = self._rule(answer, active == small, stop)
            async with aclosing(self._segment(answer, active, engines[active], rule)) as chunks:
                async for chunk in chunks:
                    if self.trace:
                        await self._note(answer, engines[active], rule)
                    if answer.cached is not None:
                        chunk.num_cached_tokens, answer.cached = answer.cached, None
                    yield chunk
                    if chunk.finish_reason is not None:
                        return
            if self.trace or self._remembers:
                await self._note(answer, engines[active], rule, closing=True)
            active = large if active == small else small
            layer["switches"] += 1

    def _limit(self, job: Job, pair: tuple[str, str]) -> int:
        """Tokens the answer may have: no more than what fits into either engine's context."""
        name = min(pair, key=lambda engine: job.deployment.engines[engine].max_model_len)
        room = job.deployment.engines[name].max_model_len - len(job.prompt_token_ids)
        if room < 1:
            raise Refusal(
                f"The prompt has {len(job.prompt_token_ids)} tokens; engine '{name}' takes fewer than "
                f"{job.deployment.engines[name].max_model_len}.",
                "prompt",
            )
        return min(job.params.max_tokens or room, room)

    def _rule(self, answer: Answer, is_small: bool, stop: int) -> Rule:
        params, switches = answer.job.params, len(answer.segments)
        remembered = answer.entropies[-(self.window - 1) :] if self.window > 1 else []
        return Rule(
            key=f"{answer.job.id}/{switches}",
            threshold=self.threshold,
            above=is_small,
            window=self.window,
            dwell=self.dwell if switches else 0,
            now=self.switch == "now",
            stop=stop,
            history=tuple(remembered) if self._remembers else (),
            emitted=answer.emitted,
            trace=self.trace,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            repetition_penalty=params.repetition_penalty,
            bad_words=tuple(map(tuple, params.bad_words_token_ids or ())),
        )

    @property
    def _remembers(self) -> bool:
        """Whether a window may reach back over a switch."""
        return self.dwell < self.window - (self.switch == "now")

    async def _segment(
        self, answer: Answer, name: str, engine: "EngineClient", rule: Rule
    ) -> AsyncGenerator[Chunk, None]:
        """Chunks until the engine hands over; the last has a finish reason only if the answer is complete."""
        from vllm.inputs.engine import tokens_input

        job, began = answer.job, answer.emitted
        params = piece(job.params, began, answer.limit, rule.wire())
        params.stop_token_ids = [*(params.stop_token_ids or ()), rule.stop]
        prompt = tokens_input(list(answer.tokens), cache_salt=job.cache_salt)
        first = True
        answer.segments.append((name, 0))
        async with aclosing(engine.generate(prompt, params, rule.key, priority=job.priority)) as outputs:
            async for output in outputs:
                if first:
                    self._count_prefill(answer, output)
                    first = False
                choice = output.outputs[0]
                ids, logprobs = list(choice.token_ids), list(choice.logprobs or ())
                over = choice.finish_reason == "stop" and choice.stop_reason == rule.stop
                if over and ids and ids[-1] == rule.stop:
                    ids.pop()
                answer.tokens += ids
                answer.segments[-1] = (name, answer.emitted - began)
                finish = None if over else choice.finish_reason
                if ids or finish is not None:
                    yield Chunk(
                        ids,
                        name,
                        logprobs[: len(ids)] or None,
                        finish,
                        choice.stop_reason if finish else None,
                    )

    def _count_prefill(self, answer: Answer, output: "RequestOutput") -> None:
        cached = output.num_cached_tokens or 0
        if len(answer.segments) == 1:
            answer.cached = cached
            return
        layer = answer.job.report.layer(self.layer)
        layer["recomputed_tokens"] += len(answer.tokens) - cached

    async def _note(
        self, answer: Answer, engine: "EngineClient", rule: Rule, *, closing: bool = False
    ) -> None:
        """Fetch the segment's new entropies: all of them for the trace, else what the next segment needs."""
        count = answer.emitted - rule.emitted
        start = answer.noted - rule.emitted if self.trace else max(0, count - self.window)
        results: list[Any] = await engine.collective_rpc(
            "decant_entropies", args=(rule.key, start, count, closing)
        )
        answer.entropies += next((found for found in results if found is not None), [])
        answer.noted = answer.emitted
        if self.trace:
            _report_trace(answer)


def _report_trace(answer: Answer) -> None:
    traces = answer.job.report.layer("sequence").setdefault("traces", [])
    if answer.trace is None:
        answer.trace = {"choice": answer.job.index}
        traces.append(answer.trace)
        traces.sort(key=lambda trace: trace["choice"])
    answer.trace["entropies"] = list(answer.entropies)
    answer.trace["segments"] = [{"engine": engine, "tokens": count} for engine, count in answer.segments]
