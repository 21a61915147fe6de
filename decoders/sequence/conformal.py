"""Conformal language modelling: a set of answers that holds an acceptable one, with a guarantee."""

import math
from contextlib import aclosing
from typing import Literal

from pydantic import ConfigDict, Field

from decoders.exact import Exact
from decoders.sequence.candidates.choosing import Candidate, CandidateMethod, Desk
from decoders.sequence.candidates.conformal_set import Growing, SetScore, Thresholds
from decoders.sequence.candidates.consensus import verdicts
from decoders.sequence.candidates.likeness import likeness
from decoders.sequence.candidates.phrasing import Templates, phrasing_of
from decoders.sequence.candidates.sampling import Sample, draw


class Calibration(Exact):
    """What the thresholds rest on, as `decant calibrate conformal` writes it; goes into the report as it
    stands.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    eps: float = Field(gt=0, lt=1, description="Largest share of sets without an acceptable answer.")
    delta: float = Field(gt=0, lt=1, description="Chance that the calibration fails to hold that.")
    questions: int = Field(ge=1, description="Questions of the calibration split.")
    date: str = Field(default="", max_length=32)
    data: str = Field(default="", max_length=256, description="The file's name.")


class Conformal(CandidateMethod):
    """Conformal language modelling: grows a set of answers until it should hold an acceptable one.

    Samples are looked at in the order in which they were drawn. One of less than `min_quality`, or more like
    a kept one (chrF) than `max_similarity`, is rejected; the set is complete when its score is `stop` at
    least (arXiv 2306.10193). With thresholds from `decant calibrate conformal`, on questions like the
    calibration's: P(no acceptable answer in the set) <= eps, with probability 1 - delta. The set is in the
    report, with the calibration; the choices are its members by quality. Nothing can be streamed before the
    set is complete.
    """

    paper = "https://arxiv.org/abs/2306.10193"
    method: Literal["conformal"]
    quality: Literal["logprob", "verdict"] = Field(
        default="logprob",
        description="logprob: the geometric mean of the tokens' probabilities; verdict: P(correct|x,y) of "
        "the model.",
    )
    set_score: SetScore = Field(default="max", description="Of the qualities in the set; or their count.")
    max_similarity: float = Field(ge=0, le=1, description="lambda 1; 1 rejects none.")
    min_quality: float = Field(ge=0, le=1, description="lambda 2; 0 rejects none.")
    stop: float = Field(ge=0, le=1e6, description="lambda 3; above what the set can score, all are sampled.")
    templates: Templates = Field(default=Templates(), description="For quality `verdict`.")
    calibration: Calibration | None = Field(default=None, description="What the thresholds rest on.")

    def asks_in_other_words(self) -> bool:
        return self.quality == "verdict"

    async def sample(self, desk: Desk) -> list[Sample]:
        """Samples in their order until the set is complete; the set goes into the report."""
        thresholds = Thresholds(self.max_similarity, self.min_quality, self.stop)
        done: dict[int, Sample] = {}
        seen: list[Sample] = []

        def alike(a: int, b: int) -> float:
            return likeness("chrf", seen[a].text, seen[b].text)

        growing = Growing(thresholds, self.set_score, alike)
        samples = draw(desk.job, desk.engine, desk.name, self.candidates, f"{desk.job.id}/sample")
        async with aclosing(samples) as drawn:
            async for one in drawn:
                done[one.index] = one
                # Short answers end first: only their order of drawing says nothing of what they are.
                while not growing.complete and len(seen) in done:
                    seen.append(done[len(seen)])
                    growing.add(await self._quality(seen[-1], desk))
                if growing.complete:
                    break
        layer = desk.job.report.layer(self.layer)
        layer["set"] = [seen[index].text for index in growing.kept]
        layer["set_score_reached"] = growing.score
        layer["complete"] = growing.complete
        layer["samples"] = [
            {"text": sample.text, "quality": quality, "kept": index in growing.kept}
            for index, (sample, quality) in enumerate(zip(seen, growing.qualities, strict=True))
        ]
        self._remember(desk, seen, growing)
        return seen

    def _remember(self, desk: Desk, seen: list[Sample], growing: Growing) -> None:
        desk.notes = {
            id(sample): (quality, index in growing.kept)
            for index, (sample, quality) in enumerate(zip(seen, growing.qualities, strict=True))
        }

    async def _quality(self, sample: Sample, desk: Desk) -> float:
        """In [0, 1]."""
        if self.quality == "logprob":
            return math.exp(sample.mean_logprob)
        phrasing = phrasing_of(desk.job.phrasing, self.method)
        return math.exp((await verdicts([sample.text], phrasing, desk, self.templates))[0])

    async def rank(self, pool: list[Candidate], desk: Desk) -> list[int]:
        for candidate in pool:
            # A kept sample stands for its equals.
            candidate.samples.sort(key=lambda one: desk.notes[id(one)], reverse=True)
            candidate.samples.sort(key=lambda one: not desk.notes[id(one)][1])
            quality, kept = desk.notes[id(candidate.best)]
            candidate.scores = {"quality": quality, "kept": float(kept)}
        keys = [(one.scores["kept"], one.scores["quality"]) for one in pool]
        return sorted(range(len(pool)), key=lambda y: keys[y], reverse=True)
