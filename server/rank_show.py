"""A ranking as a table, the policies' trajectories as a drawing, and how often each rule is right."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from decoders.sequence.candidates.game import LOGARITHMS, RULES, Evidence, play
from server.calibration.errors import CalibrationError
from server.calibration.quality import Proportion

POINTS: Final = 60  # of a trajectory
SHOWN: Final = 60  # characters of a candidate in a drawing's legend


def table(answer: Mapping[str, Any]) -> None:
    """Print one line a candidate, best first; g and mi are logarithms, the others probabilities."""
    made = Table(
        caption=f"{answer['ranking']} after {answer['iterations']} rounds; g and mi: log P; others: P"
    )
    made.add_column("", justify="right")
    made.add_column("candidate", overflow="fold")
    for rule in RULES:
        made.add_column(rule, justify="right", style="bold" if rule == answer["ranking"] else "")
    for one in answer["results"]:
        cells = [_number(rule, one["scores"][rule]) for rule in RULES]
        made.add_row(str(one["rank"]), Text(one["text"]), *cells)
    console = Console()
    console.print(made)
    usage = answer["usage"]
    console.print(
        f"{usage['computed_tokens']} tokens computed, {usage['cached_tokens']} of the prompt cached",
        style="dim",
    )


def _number(rule: str, value: float) -> str:
    return f"{value:.2f}" if rule in LOGARITHMS else f"{value:.4f}"


def accuracies(answers: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Print, on stderr, how often each rule's first candidate is the right one, with 95% Wilson intervals."""
    made = Table("rule", "right", "95%", title=f"{len(answers)} questions with an answer")
    for rule in RULES:
        firsts = [
            max(answer["results"], key=lambda one: one["scores"][rule])["text"] for _, answer in answers
        ]
        hits = sum(first == wanted for first, (wanted, _) in zip(firsts, answers, strict=True))
        share = Proportion(hits, len(answers))
        low, high = share.interval()
        made.add_row(rule, f"{share.value:.3f}", f"{low:.3f} to {high:.3f}")
    Console(file=sys.stderr).print(made)


def trajectory(answer: Mapping[str, Any]) -> tuple[list[int], list[list[dict[str, float]]]]:
    """Rounds, and at each of them every distinct candidate's scores, in the results' order."""
    distinct = list({one["text"]: one for one in answer["results"]}.values())
    evidence = [Evidence(**one["logprobs"]) for one in distinct]
    last = answer["iterations"]
    steps = sorted({max(1, round(last ** (i / (POINTS - 1)))) for i in range(POINTS)} | {last})
    rankings = [play(evidence, iterations=step) for step in steps]
    return steps, [[ranking.scores(y) for ranking in rankings] for y in range(len(distinct))]


def draw(answer: Mapping[str, Any], path: Path) -> None:
    """Both policies of each candidate over the rounds, which go logarithmically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps, values = trajectory(answer)
    texts = list(dict.fromkeys(one["text"] for one in answer["results"]))
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    sides = figure.subplots(1, 2, sharex=True, sharey=True)
    titles = ("generator: P(answer | correct)", "discriminator: P(correct | answer)")
    for axes, rule, title in zip(sides, ("er_g", "er_d"), titles, strict=True):
        for text, scores in zip(texts, values, strict=True):
            label = text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}\u2026"
            # No label begins with an underscore for matplotlib to hide, and no dollar is mathematics.
            axes.plot(steps, [one[rule] for one in scores], label=f" {label}".replace("$", r"\$"))
        axes.set(xscale="log", ylim=(-0.02, 1.02), xlabel="rounds", title=title)
        axes.grid(alpha=0.3)
    sides[1].legend(fontsize=8)
    try:
        figure.savefig(path)
    except OSError as error:
        raise CalibrationError(f"plot {path} cannot be written: {error.strerror}") from error
