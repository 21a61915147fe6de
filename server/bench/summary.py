"""What the answers amount to: quality, tokens, seconds and cost of every setting, beside plain decoding's."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from decoders.errors import Refusal
from server.bench.methods import PLAIN, Setting
from server.bench.run import Run
from server.bench.state import Answer
from server.bench.statistic import Estimate, difference, mean, ratio
from server.bench.tasks import Question

MILLION = 1e6


@dataclass(frozen=True)
class Row:
    """One setting, measured; figures of tokens, seconds and cost are means of a request.

    scores: of each question, over its turns. quality: their mean. gain: less plain's, paired. gain_sure,
    times_sure: the same at a confidence that holds for all settings at once. generated: tokens decoded, of
    all candidates. computed: tokens run through a model, the prompt's included. engines: share of generated
    tokens. kept: share of the prompts' KV slots. latency: seconds until the answer is there. seconds: what
    the server, doing nothing else at this concurrency, takes a request (None where interruptions divided
    every round). cost: engine-seconds (`seconds`), or money where there are prices. times: cost over plain's
    in the same round, median. cut: answers that ended at max_tokens. unsearched: answers that the question's
    pattern takes too long to search; their score is 0. on_frontier: no other is both better
    and cheaper.
    """

    setting: Setting
    scores: tuple[float, ...]
    quality: Estimate
    gain: Estimate
    gain_sure: Estimate
    generated: float
    computed: float
    engines: Mapping[str, float]
    kept: float
    latency: float
    seconds: float | None
    cost: float | None
    times: Estimate | None
    times_sure: Estimate | None
    rounds: int
    cut: int
    unsearched: int
    on_frontier: bool = False

    @property
    def name(self) -> str:
        return self.setting.name


@dataclass(frozen=True)
class Summary:
    """A bench's result.

    rows: plain decoding first. asked: where each question stands, and its kind. refused: the server's words
    by setting. alpha: of the sure intervals. temperature: of settings that sample candidates.
    """

    task: str
    measure: str
    unit: str
    asked: tuple[tuple[str, str], ...]
    turns: int
    concurrency: int
    server: Mapping[str, object]
    rows: tuple[Row, ...]
    refused: Mapping[str, str]
    alpha: float
    temperature: float

    @property
    def questions(self) -> int:
        return len(self.asked)

    @property
    def plain(self) -> Row:
        return self.rows[0]


def summarise(run: Run) -> Summary:
    """The figures of a complete run."""
    active = run.active()
    alpha = 0.05 / max(1, len(active) - 1)  # see choice.choose
    grades = {one.name: _grades(run, one.name) for one in active}
    rows = [_row(run, one, grades[one.name], grades[PLAIN], alpha) for one in active]
    frontier = pareto([(row.times.value if row.times else math.inf, row.quality.value) for row in rows])
    marked = [replace(row, on_frontier=i in frontier) for i, row in enumerate(rows)]
    return Summary(
        task=run.task.name,
        measure=run.task.measure,
        unit="price" if run.options.price else "engine-seconds",
        asked=tuple((one.where, one.kind) for one in run.task.questions),
        turns=run.options.turns,
        concurrency=run.options.concurrency,
        server=run.state.server,
        rows=tuple(marked),
        refused=dict(run.state.refused),
        alpha=alpha,
        temperature=run.options.temperature,
    )


def pareto(points: Sequence[tuple[float, float]]) -> set[int]:
    """The indices of (cost, quality) that no other point is at least as good as in both, and better in one.

    Points without a finite cost are never among them.
    """
    return {
        i
        for i, (cost, quality) in enumerate(points)
        if math.isfinite(cost)
        and not any(
            c <= cost and q >= quality and (c < cost or q > quality) for c, q in points if math.isfinite(c)
        )
    }


def price(answer: Answer, prices: Mapping[str, float]) -> float:
    """What an answer costs at prices per million tokens.

    Tokens that are read (of the prompt, as often as a bill counts them: once; computed again; computed for
    scores) at `prompt`, 0 if it has no price; tokens that an engine generates at that engine's price, else
    at `output`.
    """
    read = answer.prompt + answer.recomputed + answer.scored
    named = sum(answer.engines.values())
    written = sum(prices.get(name, prices["output"]) * count for name, count in answer.engines.items())
    written += prices["output"] * max(0, answer.generated - named)
    return (prices.get("prompt", 0.0) * read + written) / MILLION


def _of(run: Run, name: str) -> list[Answer]:
    return [answer for (setting, _, _), answer in run.state.answers.items() if setting == name]


Grades = tuple[tuple[float | None, ...], ...]  # of each question's turns; None where it takes too long


def _grades(run: Run, name: str) -> Grades:
    answers, turns = run.state.answers, range(run.options.turns)
    return tuple(
        tuple(_grade(asked, answers[name, turn, index].text) for turn in turns)
        for index, asked in enumerate(run.task.questions)
    )


def _grade(asked: Question, text: str) -> float | None:
    try:
        return asked.grade(text)
    except Refusal:  # by its pattern, of this text: the others are worth no less
        return None


def missed(run: Run, summary: Summary) -> list[tuple[str, str]]:
    """Where and what plain decoding's answers are that score nothing, in the words of the first turn."""
    scored = enumerate(zip(summary.asked, summary.plain.scores, strict=True))
    return [(where, run.state.answers[PLAIN, 0, i].text) for i, ((where, _), score) in scored if not score]


def _scores(grades: Grades) -> tuple[float, ...]:
    return tuple(fmean(one or 0.0 for one in turns) for turns in grades)


def _row(run: Run, setting: Setting, grades: Grades, plains: Grades, alpha: float) -> Row:
    answers, scores, plain = _of(run, setting.name), _scores(grades), _scores(plains)
    spent = Counter[str]()
    for one in answers:
        spent.update(one.engines)
    prompts = sum(one.prompt for one in answers)
    kept = sum(one.prompt if one.kept is None else one.kept for one in answers)
    costs, seconds = _costs(run, setting.name), _seconds(run, setting.name)
    ratios = _ratios(costs, _costs(run, PLAIN))
    return Row(
        setting=setting,
        scores=scores,
        quality=mean(scores),
        gain=difference(scores, plain),
        gain_sure=difference(scores, plain, alpha),
        generated=fmean(one.generated for one in answers),
        computed=fmean(one.computed for one in answers),
        engines={name: count / spent.total() for name, count in sorted(spent.items())} if spent else {},
        kept=kept / prompts if prompts else 1.0,
        latency=fmean(one.ended - one.began for one in answers),
        seconds=_per_request(seconds),
        cost=_per_request(costs),
        times=ratio(ratios) if ratios else None,
        times_sure=ratio(ratios, alpha) if ratios else None,
        rounds=len(ratios),
        cut=sum(one.finish == "length" for one in answers),
        unsearched=sum(turns.count(None) for turns in grades),
    )


@dataclass(frozen=True)
class Round:
    """What the `requests` of a setting's round cost together.

    session: on whose clock; None where the cost is not of a clock.
    """

    cost: float
    requests: int
    session: int | None


Rounds = Mapping[tuple[int, int], Round]  # of turn and round


def _rounds(run: Run, name: str) -> dict[tuple[int, int], list[Answer]]:
    found: dict[tuple[int, int], list[Answer]] = {}
    for one in _of(run, name):
        found.setdefault((one.turn, one.round), []).append(one)
    return found


def _seconds(run: Run, name: str) -> Rounds:
    """From a round's first request to its last answer; rounds that an interruption divided are left out."""
    return {
        key: Round(
            max(one.ended for one in answers) - min(one.began for one in answers),
            len(answers),
            answers[0].session,
        )
        for key, answers in _rounds(run, name).items()
        if len({one.session for one in answers}) == 1
    }


def _costs(run: Run, name: str) -> Rounds:
    prices = run.options.price
    if not prices:
        return _seconds(run, name)
    return {
        key: Round(sum(price(one, prices) for one in answers), len(answers), None)
        for key, answers in _rounds(run, name).items()
    }


def _ratios(ours: Rounds, plain: Rounds) -> list[float]:
    """Ours over plain's, of rounds that both ran in the same session: the machine was the same, as busy."""
    pairs = [(ours[key], plain[key]) for key in ours if key in plain]
    return [own.cost / of.cost for own, of in pairs if own.session == of.session and of.cost > 0]


def _per_request(rounds: Rounds) -> float | None:
    count = sum(one.requests for one in rounds.values())
    return sum(one.cost for one in rounds.values()) / count if count else None
