"""`POST /v1/rank`: the caller's candidates scored as answers, and every rule's ranking of them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, Field
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

from decoders.errors import Refusal
from decoders.method import Job
from decoders.report import Report
from decoders.request import Decoding, DecodingRequest
from decoders.sequence.candidates.choosing import Desk, finite
from decoders.sequence.candidates.consensus import Judged, judge
from decoders.sequence.candidates.game import Policies, Ranking, play, trajectory
from decoders.sequence.candidates.phrasing import Phrasing, end_of
from decoders.sequence.candidates.scoring import Scores
from decoders.sequence.plain import Plain
from server.call import Call
from server.config import LimitSettings
from server.engine import DecodingEngine
from server.errors import ApiError, invalid
from server.metrics import count_candidates
from server.requests import RankRequest

WHERE = "decoding.sequence"


class Result(BaseModel):
    """One candidate. Equal candidates are scored once and have the same scores."""

    rank: int = Field(description="Place, from 1.")
    index: int = Field(description="Which of the request's candidates.")
    text: str
    scores: dict[str, float] = Field(
        description="By rule; g and mi are natural logarithms of probabilities, sc, d, er_g and er_d the "
        "policies' "
        "probabilities."
    )
    logprobs: dict[str, float] = Field(
        description="Natural logarithms: correct and incorrect, log P(y|x,v) (by token if so asked); yes "
        "and no, "
        "log P(v|x,y) of the two labels."
    )
    tokens: int = Field(description="Tokens of the candidate.")


class RankUsage(BaseModel):
    prompt_tokens: int = Field(description="Of the question as the generator reads it.")
    completion_tokens: int = Field(description="Of the candidates.")
    total_tokens: int = Field(description="The sum of these.")
    computed_tokens: int = Field(description="Run through the model, for generator and discriminator.")
    cached_tokens: int = Field(description="Of the generator's prompt, found in the prefix cache.")


class RankResponse(BaseModel):
    """The candidates, best first by `ranking`."""

    object: str = "ranking"
    model: str
    method: str
    ranking: str
    iterations: int
    results: list[Result]
    usage: RankUsage
    policies: Policies | None = Field(
        default=None, description="With `trajectory`: er_g and er_d of the results, in their order, by round."
    )
    decoding: dict[str, Any] | None = None


def admit_ranking(
    body: RankRequest, preset: Decoding | None, engine: DecodingEngine, limits: LimitSettings
) -> Call:
    """The call this request amounts to. Raises ApiError 400 or Refusal that names the field at fault."""
    if (body.prompt is None) == (body.messages is None):
        raise invalid("Give either prompt or messages.", "prompt")
    if body.messages is not None and not body.add_special_tokens:
        raise _idle("add_special_tokens", "messages")
    if body.prompt is not None and body.chat_template_kwargs is not None:
        raise _idle("chat_template_kwargs", "prompt")
    if len(body.candidates) > limits.candidates:
        raise invalid(f"At most {limits.candidates} candidates are allowed on this server.", "candidates")
    if (body.cache_salt or "").startswith("decant."):
        raise invalid("Salts that begin with 'decant.' are reserved.", "cache_salt")
    own = body.decoding if body.decoding is not None else DecodingRequest()
    if own.sequence is not None:
        raise Refusal("`method` and `ranking` say how candidates are ranked; leave it out.", WHERE)
    deployment = engine.deployment
    name = body.engine or deployment.default
    if name not in deployment.engines:
        names = ", ".join(deployment.engines)
        raise Refusal(f"This server has no engine of that name; it has: {names}.", "engine")
    where = Plain(method="plain", engine=name)
    decoding = own.over(preset).model_copy(update={"sequence": where})
    if decoding.cache is not None:
        raise Refusal("Candidates are scored with the whole context; leave it out.", "decoding.cache")
    decoding.admit(deployment)
    engine.check_priority(body.priority, name)
    report = Report()
    for method in decoding.engine_methods():
        method.describe(report)
    return Call(decoding, report, candidate_tokens=limits.candidate_tokens)


def _idle(field: str, beside: str) -> ApiError:
    return invalid(f"{field}: Does nothing beside {beside}; leave it out.", field)


@dataclass
class Till:
    """A desk whose first prompt, the generator's, is held against the limits and paid for before it is
    scored."""

    desk: Desk
    engine: DecodingEngine
    call: Call
    passed: bool = False

    async def score(self, prompt: list[int], candidates: list[list[int]], **more: Any) -> Scores:
        if not self.passed:
            self.passed, length = True, len(prompt)
            self.engine.check_prompt_length(length)
            self.call.unbooked = self.call.account.prompt = length
            self.call.account.cached = length  # what is computed of it is in the scored tokens
            self.engine.book_prompts(self.call)
        return await self.desk.score(prompt, candidates, **more)


async def rank(
    body: RankRequest, call: Call, phrasing: Phrasing, engine: DecodingEngine, model: str
) -> RankResponse:
    """Score the distinct candidates, play the game, and order them by the rule asked for."""
    name = body.engine or engine.deployment.default
    engine.require([name], call)
    extra: dict[str, Any] = {}
    for method in call.decoding.engine_methods():
        extra |= method.engine_arguments()
    job = Job(
        id=f"rank-{uuid4().hex}",
        prompt_token_ids=[],
        params=SamplingParams(extra_args=extra or None),
        report=call.report,
        deployment=engine.deployment,
        cache_salt=call.decoding.cache_salt(body.cache_salt),
        priority=body.priority,
        phrasing=phrasing,
    )
    distinct = list(dict.fromkeys(body.candidates))
    try:
        judged = await judge(
            distinct,
            phrasing,
            Till(Desk(job, engine.engines[name], name, call.candidate_tokens), engine, call),
            body.templates,
            by_token=body.by_token,
            end=end_of(phrasing) if body.end else None,
        )
    except EngineDeadError:
        engine.note_loss([name], call)
        raise
    # Both may take a second of this thread, and others wait for it.
    ranking = await asyncio.to_thread(
        play, judged.evidence, eta=body.eta, lam=body.lam, iterations=body.iterations
    )
    count_candidates(body.method, call.report, len(distinct))
    results = _results(body, distinct, judged, ranking)
    return RankResponse(
        model=model,
        method=body.method,
        ranking=body.ranking,
        iterations=body.iterations,
        results=results,
        usage=_usage(body.candidates, distinct, judged, call),
        policies=await asyncio.to_thread(_policies, body, distinct, judged, results)
        if body.trajectory
        else None,
    )


def _policies(
    body: RankRequest, distinct: Sequence[str], judged: Judged, results: Sequence[Result]
) -> Policies:
    found = trajectory(judged.evidence, eta=body.eta, lam=body.lam, iterations=body.iterations)
    order = [distinct.index(result.text) for result in results]
    return Policies(
        iterations=found.iterations,
        er_g=[[row[y] for y in order] for row in found.er_g],
        er_d=[[row[y] for y in order] for row in found.er_d],
    )


def _results(body: RankRequest, distinct: Sequence[str], judged: Judged, ranking: Ranking) -> list[Result]:
    results: list[Result] = []
    for y in ranking.order(body.ranking):
        seen = judged.evidence[y]
        logprobs = {"correct": seen.correct, "incorrect": seen.incorrect, "yes": seen.yes, "no": seen.no}
        for index, text in enumerate(body.candidates):
            if text == distinct[y]:
                results.append(
                    Result(
                        rank=len(results) + 1,
                        index=index,
                        text=text,
                        scores={rule: finite(value) for rule, value in ranking.scores(y).items()},
                        logprobs={label: finite(value) for label, value in logprobs.items()},
                        tokens=judged.tokens[y],
                    )
                )
    return results


def _usage(candidates: Sequence[str], distinct: Sequence[str], judged: Judged, call: Call) -> RankUsage:
    tokens = sum(judged.tokens[distinct.index(text)] for text in candidates)
    return RankUsage(
        prompt_tokens=judged.prompt,
        completion_tokens=tokens,
        total_tokens=judged.prompt + tokens,
        computed_tokens=call.report.spent["scored"],
        cached_tokens=judged.cached,
    )
