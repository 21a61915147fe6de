"""What the answers amount to: quality and cost of every setting, and the choice among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles

from server.calibration.data import Prompt, with_answers
from server.calibration.errors import CalibrationError
from server.calibration.quality import Match, Proportion, is_right, prefix_agreement
from server.calibration.state import Answer
from server.calibration.sweep import LARGE, TRACED, Setting, Sweep


@dataclass(frozen=True)
class Speed:
    """Tokens a second over the large model's in the same round: median, quartiles, and of how many rounds."""

    middle: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Row:
    """One setting, measured.

    share: of all tokens, the large model's. quality: right answers, or answers that are the large model's.
    prefix: mean share of an answer's tokens before it departs from the large model's. switches, recomputed
    (tokens): means of an answer. tokens: mean length of an answer. cut: answers that ended at max_tokens.
    """

    setting: Setting
    share: float
    quality: Proportion
    prefix: float
    switches: float
    recomputed: float
    tokens: float
    cut: int
    speed: Speed | None


@dataclass(frozen=True)
class Summary:
    """rows: from the small model alone, over falling thresholds, to the large one alone.

    itself: answers of the large model that were the same when it was asked a second time, in other batches:
    agreement cannot be expected to exceed it.
    """

    rows: tuple[Row, ...]
    measure: str
    itself: Proportion

    @property
    def large(self) -> Row:
        return self.rows[-1]


def summarise(sweep: Sweep, match: Match) -> Summary:
    """The figures of a complete sweep."""
    prompts = sweep.prompts
    large = _answers(sweep, LARGE)
    again = _answers(sweep, TRACED[LARGE])
    itself = Proportion(sum(a.tokens == b.tokens for a, b in zip(large, again, strict=True)), len(prompts))
    rows = tuple(_row(sweep, setting, large, match) for setting in sweep.settings())
    return Summary(rows, "accuracy" if with_answers(prompts) else "agreement", itself)


def choose_share(rows: Sequence[Row], most: float) -> Row:
    """The row with the greatest share not above `most`; of several, the best."""
    return max((row for row in rows if row.share <= most), key=lambda row: (row.share, row.quality.hits))


def choose_quality(rows: Sequence[Row], least: float) -> Row:
    """The row with the least share whose quality is at least `least` times the last row's, the large model's.

    Raises CalibrationError if there is none, or the large model has no quality to keep.
    """
    large = rows[-1].quality
    if not large.hits:
        raise CalibrationError("quality: the large model answers nothing right, so there is none to keep")
    fit = [row for row in rows if row.quality.hits >= least * large.hits - 1e-9]
    if not fit:
        best = max(row.quality.hits for row in rows) / large.hits
        raise CalibrationError(
            f"quality: no setting has {least:g} times the large model's; at most {best:.3f}"
        )
    return min(fit, key=lambda row: (row.share, -row.quality.hits))


def _answers(sweep: Sweep, setting: str) -> list[Answer]:
    return [sweep.state.answers[setting, i] for i in range(len(sweep.prompts))]


def _row(sweep: Sweep, setting: Setting, large: Sequence[Answer], match: Match) -> Row:
    answers = _answers(sweep, setting.name)
    engine = (sweep.state.engines or {})["large"]
    total = sum(sum(answer.engines.values()) for answer in answers)
    return Row(
        setting=setting,
        share=sum(answer.engines.get(engine, 0) for answer in answers) / total if total else 0.0,
        quality=Proportion(_hits(answers, large, sweep.prompts, match), len(answers)),
        prefix=fmean(prefix_agreement(a.tokens, b.tokens) for a, b in zip(answers, large, strict=True)),
        switches=fmean(answer.switches for answer in answers),
        recomputed=fmean(answer.recomputed for answer in answers),
        tokens=total / len(answers),
        cut=sum(answer.finish == "length" for answer in answers),
        speed=speed(answers, large, sweep.rounds()),
    )


def _hits(answers: Sequence[Answer], large: Sequence[Answer], prompts: Sequence[Prompt], match: Match) -> int:
    if with_answers(prompts):
        pairs = zip(answers, prompts, strict=True)
        return sum(is_right(answer.text, prompt.accepted, match) for answer, prompt in pairs)
    return sum(ours.tokens == theirs.tokens for ours, theirs in zip(answers, large, strict=True))


def speed(ours: Sequence[Answer], large: Sequence[Answer], rounds: Sequence[Sequence[int]]) -> Speed | None:
    """Over the rounds that both were asked in one go; None if there is none."""
    ratios = []
    for prompts in rounds:
        rates = [rate([answers[i] for i in prompts]) for answers in (ours, large)]
        if rates[0] and rates[1]:
            ratios.append(rates[0] / rates[1])
    if not ratios:
        return None
    low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else [ratios[0]] * 3
    return Speed(median(ratios), low, high, len(ratios))


def rate(answers: Sequence[Answer]) -> float | None:
    """Tokens a second of a round; None where an interruption divided it."""
    if len({answer.session for answer in answers}) != 1:
        return None
    seconds = max(answer.ended for answer in answers) - min(answer.began for answer in answers)
    return sum(sum(answer.engines.values()) for answer in answers) / seconds if seconds > 0 else None
