"""Exact log-probabilities of candidate answers on one prompt, which is computed once.

A request on the prompt alone gives the first tokens' scores and leaves the prompt in the prefix cache, to its
last token (`decoders/prefix`). The other tokens' come from prompt log-probabilities of prompt + candidate,
read from the cache as far as the prompt reaches and no further: vLLM leaves the rows of cached positions
uninitialised. A request that found more there all the same, as under another scheduler it may, is asked again
without the cache.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from decoders.logits.guidance import Guidance
from decoders.prefix.limit import limit_arguments
from decoders.sequence.candidates.together import together

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams

MOST_LABELS: Final = 128  # token ids whose scores one request may ask for; vLLM's bound


@dataclass(frozen=True)
class Scores:
    """Of N candidates on one prompt.

    logprobs: natural logarithm of each token's probability given the prompt and the tokens before it, by
        candidate. computed: tokens run through the model: prompt tokens that were not in the cache, and the
        candidates'. cached: prompt tokens that were in the prefix cache when the first request came.
    """

    logprobs: list[list[float]]
    computed: int
    cached: int


async def score(
    engine: "EngineClient",
    prompt: list[int],
    candidates: list[list[int]],
    *,
    id: str,
    cache_salt: str | None = None,
    priority: int = 0,
    extra_args: dict[str, Any] | None = None,
) -> Scores:
    """Score every candidate, in their order; an empty one has no tokens and no scores.

    Args:
        prompt: token ids, at least one.
        candidates: token ids each; prompt and candidate together must leave room for one token of the
            context.
        id: unique in the engine; requests are named after it.
        extra_args: for the engine's processors. Under guidance the scores are those of the guided
            distribution.
    """
    scorer = _Scorer(engine, prompt, id, cache_salt, priority, extra_args)
    distinct = list({tuple(one): None for one in candidates if one})
    firsts = await scorer.firsts(prompt, sorted({one[0] for one in distinct}))
    guidance = Guidance.from_wire(extra_args)
    guided = guidance is not None and not guidance.does_nothing()
    rest = scorer.rest_one_by_one if guided else scorer.rest
    others = await together(map(rest, distinct))
    found = {one: [firsts[one[0]], *more] for one, more in zip(distinct, others, strict=True)}
    return Scores(
        [list(found.get(tuple(one), [])) for one in candidates], scorer.computed, scorer.cached or 0
    )


class _Scorer:
    """The requests of one `score`, and what they cost."""

    def __init__(
        self,
        engine: "EngineClient",
        prompt: list[int],
        id: str,
        cache_salt: str | None,
        priority: int,
        extra_args: dict[str, Any] | None,
    ) -> None:
        self.engine = engine
        self.prompt = prompt
        self.id = id
        self.cache_salt = cache_salt
        self.priority = priority
        self.extra_args = extra_args
        self.requests = 0
        self.computed = 0
        self.cached: int | None = None

    async def firsts(self, prompt: Sequence[int], tokens: Sequence[int]) -> dict[int, float]:
        """log P of each of `tokens` as the one that follows `prompt`."""
        found: dict[int, float] = {}
        for start in range(0, len(tokens), MOST_LABELS):
            asked = list(tokens[start : start + MOST_LABELS])
            output = await self._ask(prompt, self._params(logprob_token_ids=asked))
            row = output.outputs[0].logprobs[0]
            found |= {token: float(row[token].logprob) for token in asked}
        return found

    async def rest(self, candidate: tuple[int, ...]) -> list[float]:
        """log P of every token but the first."""
        if len(candidate) == 1:
            return []
        tokens = [*self.prompt, *candidate]
        found_prompt = self._params(prompt_logprobs=0, skip_reading_prefix_cache=False)
        found_prompt.extra_args = {**(self.extra_args or {}), **limit_arguments(len(self.prompt))}
        output = await self._ask(tokens, found_prompt)
        rows = self._rows(output, candidate)
        if rows is None or (output.num_cached_tokens or 0) > len(self.prompt):
            output = await self._ask(tokens, self._params(prompt_logprobs=0, skip_reading_prefix_cache=True))
            rows = self._rows(output, candidate)
        if rows is None:
            raise RuntimeError("the engine returned no log-probabilities for a prompt it has computed")
        return rows

    async def rest_one_by_one(self, candidate: tuple[int, ...]) -> list[float]:
        """The same under guidance, of which prompt log-probabilities know nothing: a request for each
        token.
        """
        found = []
        for i in range(1, len(candidate)):
            before = [*self.prompt, *candidate[:i]]
            found.append((await self.firsts(before, [candidate[i]]))[candidate[i]])
        return found

    def _rows(self, output: "RequestOutput", candidate: Sequence[int]) -> list[float] | None:
        """The candidate's rows but the first; None if one of them cannot be a row of this candidate."""
        table: Sequence[Mapping[int, Any] | None] = output.prompt_logprobs or ()
        found = []
        for position, token in enumerate(candidate[1:], len(self.prompt) + 1):
            row = table[position] if position < len(table) else None
            entry = row.get(token) if row is not None else None
            if entry is None or math.isnan(entry.logprob) or entry.logprob > 0:
                return None
            found.append(float(entry.logprob))
        return found

    def _params(self, **settings: Any) -> "SamplingParams":
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        return SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=dict(self.extra_args) if self.extra_args else None,
            **settings,
        )

    async def _ask(self, tokens: Sequence[int], params: "SamplingParams") -> "RequestOutput":
        from vllm.inputs.engine import tokens_input

        self.requests += 1
        prompt = tokens_input(list(tokens), cache_salt=self.cache_salt)
        request = f"{self.id}/{self.requests}"
        output: RequestOutput | None = None
        async for one in self.engine.generate(prompt, params, request, priority=self.priority):
            output = one
        if output is None or output.outputs[0].finish_reason not in ("length", "stop"):
            raise RuntimeError("the engine ended a request that scores candidates before its first token")
        cached = output.num_cached_tokens or 0
        if self.cached is None:
            self.cached = cached
        self.computed += len(tokens) - cached
        return output
