"""What generator and discriminator say of candidate answers: the game's log-probabilities, by `score`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from decoders.sequence.candidates.game import Evidence
from decoders.sequence.candidates.phrasing import Continued, Phrasing, Templates, filled
from decoders.sequence.candidates.scoring import Scores
from decoders.sequence.candidates.together import together


class Scoring(Protocol):
    """Where prompts and candidates are scored, for example a `Desk`."""

    async def score(
        self,
        prompt: list[int],
        candidates: list[list[int]],
        *,
        cache_salt: str | None = None,
        extra_args: dict[str, Any] | None = None,
    ) -> Scores: ...


@dataclass(frozen=True)
class Judged:
    """evidence: of each answer. tokens: of each answer. prompt, cached: tokens of the generator's prompt, and
    those of them that were in the prefix cache."""

    evidence: list[Evidence]
    tokens: list[int]
    prompt: int
    cached: int


async def judge(
    answers: Sequence[str],
    phrasing: Phrasing,
    scoring: Scoring,
    templates: Templates,
    *,
    by_token: bool,
    end: int | None = None,
) -> Judged:
    """log P(y|x,v) and log P(v|x,y) of each answer y and v in correct, incorrect.

    Args:
        by_token: take the mean log P of a token for P(y|x,v) in place of the sum.
        end: a token that ends an answer, to be scored as its last one.
    """
    texts = [filled(templates.answer, "", answer) for answer in answers]
    cues = (templates.generator, templates.generator_incorrect)
    asked = await together(phrasing.continued(cue, "", texts) for cue in cues)
    correct, incorrect = (_ended(one, end) for one in asked)
    # The generator's prompt first: what comes next finds the question in the prefix cache.
    first = await scoring.score(correct.prompt, correct.continuations)
    asked = [incorrect, *await _discriminators(answers, phrasing, templates)]
    second, *judged = await together(scoring.score(one.prompt, one.continuations) for one in asked)
    evidence = [
        Evidence(_value(first, y, by_token), _value(second, y, by_token), *map(sum, judged[y].logprobs))
        for y in range(len(answers))
    ]
    tokens = [len(one) for one in correct.continuations]
    return Judged(evidence, tokens, len(correct.prompt), first.cached)


async def verdicts(
    answers: Sequence[str], phrasing: Phrasing, scoring: Scoring, templates: Templates
) -> list[float]:
    """log P(correct|x,y) of each answer, the two labels' probabilities normalised to 1."""
    asked = await _discriminators(answers, phrasing, templates)
    judged = await together(scoring.score(one.prompt, one.continuations) for one in asked)
    sums = [(sum(one.logprobs[0]), sum(one.logprobs[1])) for one in judged]
    return [yes - max(yes, no) - math.log1p(math.exp(-abs(yes - no))) for yes, no in sums]


async def _discriminators(
    answers: Sequence[str], phrasing: Phrasing, templates: Templates
) -> list[Continued]:
    labels = [templates.correct, templates.incorrect]
    return await together(phrasing.continued(templates.discriminator, one, labels) for one in answers)


def _ended(asked: Continued, end: int | None) -> Continued:
    if end is None:
        return asked
    return Continued(asked.prompt, [[*one, end] for one in asked.continuations])


def _value(scores: Scores, y: int, by_token: bool) -> float:
    row = scores.logprobs[y]
    return sum(row) / max(1, len(row)) if by_token else sum(row)
