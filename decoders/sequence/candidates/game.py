"""The consensus game on given log-probabilities, and the rules that rank by it (arXiv 2310.09139)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from torch import Tensor

Rule = Literal["er_d", "er_g", "g", "mi", "sc", "d"]
RULES: Final[tuple[Rule, ...]] = ("g", "mi", "sc", "d", "er_g", "er_d")
LOGARITHMS: Final = ("g", "mi")  # reported as natural logarithms; the others as probabilities
POINTS: Final = 24  # of a trajectory, at most


@dataclass(frozen=True)
class Evidence:
    """Of one candidate y to a question x, natural logarithms.

    correct, incorrect: log P(y|x,v). yes, no: log P(v|x,y) of the labels v, as the model gives them.
    """

    correct: float
    incorrect: float
    yes: float
    no: float


@dataclass(frozen=True)
class Ranking:
    """What the rules say of N candidates, `log_scores[rule][y]`, natural logarithms all of them."""

    log_scores: dict[Rule, list[float]]

    def order(self, rule: Rule) -> list[int]:
        """The candidates' indices, best first; among equals the generator decides, then the given order."""
        first, second = self.log_scores[rule], self.log_scores["g"]
        return sorted(range(len(first)), key=lambda y: (-first[y], -second[y], y))

    def scores(self, y: int) -> dict[str, float]:
        """Each rule's score of candidate `y`: policies as probabilities, `g` and `mi` as logarithms."""
        import math

        return {
            rule: values[y] if rule in LOGARITHMS else math.exp(values[y])
            for rule, values in self.log_scores.items()
        }


def play(
    evidence: Sequence[Evidence],
    *,
    eta: float = 0.1,
    lam: float = 0.1,
    iterations: int = 5000,
) -> Ranking:
    """Every rule's score of the candidates.

    `g` = P(y|x,correct) (the answer's cue is the correct one's), `mi` = P(y|x,correct) P(correct|x,y), `sc`
    and `d` = the initial policies pi_G1(y|correct) and pi_D1(correct|y), `er_g` and `er_d` = the
    equilibrium's. The two labels' probabilities are normalised to 1 first (ours): what the model gives to
    other words than the labels says nothing of the answer. All in float64 and in log space: sequences of any
    length underflow nowhere.
    """
    from kernels import ops

    generator, labels = _inputs(evidence)
    first_g, first_d = ops.pikl(generator, labels[None], iterations=0)
    last_g, last_d = ops.pikl(generator, labels[None], eta, lam, iterations)
    g = generator[0, 1]
    values = {
        "g": g,
        "mi": g + labels[:, 1],
        "sc": first_g[0, 1],
        "d": first_d[0, :, 1],
        "er_g": last_g[0, 1],
        "er_d": last_d[0, :, 1],
    }
    return Ranking({rule: values[rule].tolist() for rule in RULES})


@dataclass(frozen=True)
class Policies:
    """The players' policies after numbers of rounds: at 0 they are `sc` and `d`, at the last those of `play`.

    iterations: at most POINTS numbers, after the first evenly spread in logarithm. er_g, er_d: at each of
    them pi_G(y|correct) and pi_D(correct|y) of every candidate, `[points, candidates]`, as probabilities.
    """

    iterations: list[int]
    er_g: list[list[float]]
    er_d: list[list[float]]


def trajectory(
    evidence: Sequence[Evidence], *, eta: float = 0.1, lam: float = 0.1, iterations: int = 5000
) -> Policies:
    """How the players come to agree: their policies after some of the game's rounds."""
    from kernels import ops

    generator, labels = _inputs(evidence)
    steps = max(1, min(POINTS - 2, iterations - 1))
    rounds = sorted({0, *(round(iterations ** (step / steps)) for step in range(steps + 1))})
    policies = [ops.pikl(generator, labels[None], eta, lam, count) for count in rounds]
    return Policies(
        iterations=rounds,
        er_g=[log_g[0, 1].exp().tolist() for log_g, _ in policies],
        er_d=[log_d[0, :, 1].exp().tolist() for _, log_d in policies],
    )


def _inputs(evidence: Sequence[Evidence]) -> "tuple[Tensor, Tensor]":
    """The generator's log-probabilities `[1, 2, N]` and the labels' `[N, 2]`, incorrect first, float64."""
    import torch

    generator = torch.tensor([[one.incorrect, one.correct] for one in evidence], dtype=torch.float64).T[None]
    labels = torch.tensor([[one.no, one.yes] for one in evidence], dtype=torch.float64).log_softmax(-1)
    return generator, labels
