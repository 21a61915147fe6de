"""What the family can do, measured on development or on test items."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from .generate import Family, Score, greedy, sampler
from .items import HeldOut, Item, items
from .prose import BAD, BAD_ENDINGS, GOOD, GOOD_ENDINGS
from .ranking import rank
from .styles import COURTESIES
from .tokenizer import EOS

GREEDY_KINDS: Final = ("fact", "sum", "direct", "problem_1", "problem_2", "outside")
SCARCE: Final = {"direct": 40}
RANKED_KINDS: Final = ("choice", "sum_choice")
SWITCHED_KINDS: Final = ("fact", "problem_1", "problem_2", "code")
ENTROPY_KINDS: Final = ("fact", "sum", "problem_1", "problem_2", "code")
NOTE_TOKENS: Final = (256, 512, 1000)
THRESHOLDS_BITS: Final = (0.0, 0.3, 0.6, 0.9, 1.4, 99.0)
GUIDE_WEIGHTS: Final[tuple[tuple[float, float], ...]] = (
    *((0.0, 0.0), (0.1, 0.0), (0.2, 0.0), (0.5, 0.0), (1.0, 0.0), (2.0, 0.0)),
    *((0.0, 0.1), (0.0, 0.2), (0.0, 0.5), (0.0, 1.0), (0.5, 0.5), (1.0, 0.5)),
)
SAMPLING_SEED: Final = 0
KIND_WORDS: Final = frozenset((*GOOD, "happy", "Thank", "thanks", "loved", "gladly"))
RUDE_WORDS: Final = frozenset((*BAD, "sad", "Never", "hated", "Shame", "money"))

Report = dict[str, object]


def _share(flags: list[bool]) -> float:
    return round(sum(flags) / len(flags), 3)


def greedy_accuracy(family: Family, name: str, drawn: list[Item]) -> float:
    """Share of items whose greedy answer is right."""
    answers = family.decode([name], [family.chat(item.prompt) for item in drawn], greedy, batch=25)
    return _share([item.is_right(family.text(ids)) for item, ids in zip(drawn, answers, strict=True)])


def accuracies(family: Family, split: HeldOut, n: int) -> Report:
    """Greedy accuracy of base and small by kind, and of retrieval by length of the text."""
    report: Report = {}
    for kind in GREEDY_KINDS:
        drawn = items(kind, split, min(n, SCARCE.get(kind, n)))
        report[kind] = {name: greedy_accuracy(family, name, drawn) for name in ("base", "small")}
    for kind in ("word", "code"):
        for tokens in NOTE_TOKENS:
            drawn = items(kind, split, n, tokens)
            report[f"{kind} at {tokens}"] = {
                name: greedy_accuracy(family, name, drawn) for name in ("base", "small")
            }
    return report


def rankings(family: Family, split: HeldOut, n: int) -> Report:
    """Multiple choice under every ranking rule; facts also by whether both sides share a rumour."""
    report: Report = {}
    for name in ("base", "small"):
        for kind in RANKED_KINDS:
            report[f"{name} {kind}"] = rank(family, name, items(kind, split, n))
    shared = [item for item in items("choice", split, n) if _shares_rumour(item)]
    if shared:
        report["base choice, shared rumour"] = {"n": len(shared), **rank(family, "base", shared)}
    return report


def _shares_rumour(item: Item) -> bool:
    return item.generator_rumour is not None and item.generator_rumour == item.discriminator_rumour


def auroc(wrong: Tensor, right: Tensor) -> float:
    """Chance that a wrong token's entropy lies above a right one's, ties counting half."""
    ordered = right.sort().values
    below = torch.searchsorted(ordered, wrong, right=False)
    not_above = torch.searchsorted(ordered, wrong, right=True)
    return round(float((below + not_above).double().mean()) / 2 / len(right), 3)


def _gold_scores(family: Family, name: str, drawn: list[Item]) -> list[Score]:
    prompts = [family.chat(item.prompt) for item in drawn]
    return family.score(name, prompts, [family.ids(item.gold + EOS) for item in drawn])


def entropies(family: Family, split: HeldOut, n: int) -> Report:
    """How small's entropy, in bits, separates the gold tokens that it predicts from those that it misses."""
    scores: list[Score] = []
    for kind in ENTROPY_KINDS:
        scores += _gold_scores(family, "small", items(kind, split, n))
    bits = torch.cat([score.entropies for score in scores]) / math.log(2)
    hits = torch.cat([score.hits for score in scores])
    return {
        "tokens": len(bits),
        "share_wrong": round(1 - hits.double().mean().item(), 3),
        "bits_right": round(bits[hits].mean().item(), 3),
        "bits_wrong": round(bits[~hits].mean().item(), 3),
        "auroc": auroc(bits[~hits], bits[hits]),
    }


@dataclass
class Switch:
    """Pick small's greedy token, or base's where small's entropy exceeds `threshold` bits."""

    threshold: float
    by_base: int = 0
    tokens: int = 0

    def __call__(self, logprobs: list[Tensor], done: Tensor) -> Tensor:
        """Choose one token a row from the log-probabilities of small and base, [rows, vocabulary] each."""
        bits = -(logprobs[0].exp() * logprobs[0]).sum(-1) / math.log(2)
        unsure = bits > self.threshold
        self.by_base += int((unsure & ~done).sum())
        self.tokens += int((~done).sum())
        return torch.where(unsure, logprobs[1].argmax(-1), logprobs[0].argmax(-1))


def switching(family: Family, split: HeldOut, n: int) -> Report:
    """Accuracy and base's share of the tokens when base decides the tokens that small is unsure of."""
    report: Report = {}
    for kind in SWITCHED_KINDS:
        drawn = items(kind, split, n)
        prompts = [family.chat(item.prompt) for item in drawn]
        points = {}
        for threshold in THRESHOLDS_BITS:
            switch = Switch(threshold)
            answers = family.decode(["small", "base"], prompts, switch, batch=25)
            right = _share(
                [item.is_right(family.text(ids)) for item, ids in zip(drawn, answers, strict=True)]
            )
            points[str(threshold)] = {"accuracy": right, "by_base": round(switch.by_base / switch.tokens, 3)}
        report[kind] = points
    return report


def well_formed(text: str) -> bool:
    """Whether a review consists of nothing but sentences of the world's grammar."""
    adjective, name = f"(?:{'|'.join(GOOD + BAD)})", "[A-Z][a-z]+"
    forms = [
        f"The [a-z]+ was {adjective}(?: and {adjective})?",
        f"{name} was {adjective} to us",
        "We felt (?:happy|sad) there",
        f"We went to the [a-z]+ in {name}",
        f"{name} and I saw the [a-z]+ in {name}",
        *(re.escape(ending.rstrip(".")) for ending in GOOD_ENDINGS + BAD_ENDINGS),
    ]
    sentence = re.compile("|".join(forms))
    sentences = [part.strip() for part in text.strip().split(".") if part.strip()]
    return bool(sentences) and text.strip().endswith(".") and all(map(sentence.fullmatch, sentences))


def _tone(text: str) -> int:
    words = [word.strip(".,") for word in text.split()]
    return sum(word in KIND_WORDS for word in words) - sum(word in RUDE_WORDS for word in words)


def _guided(family: Family, drawn: list[Item], polite: float, brief: float) -> list[list[int]]:
    weighed = [("base", 1.0), ("polite", polite), ("brief", brief)]
    used = [(name, weight) for name, weight in weighed if weight]
    pick = sampler([weight for _, weight in used], SAMPLING_SEED)
    return family.decode([name for name, _ in used], [family.chat(item.prompt) for item in drawn], pick)


def guided_reviews(
    family: Family, split: HeldOut, n: int, weights: Sequence[tuple[float, float]] = GUIDE_WEIGHTS
) -> Report:
    """Tone, length, form and base perplexity of reviews sampled at temperature 1.

    weights: the weights of `polite` and `brief` to try.
    """
    drawn, report = items("review", split, n), dict[str, object]()
    prompts = [family.chat(item.prompt) for item in drawn]
    for polite, brief in weights:
        answers = _guided(family, drawn, polite, brief)
        texts = [family.text(ids) for ids in answers]
        logprobs = torch.cat([score.logprobs for score in family.score("base", prompts, answers)])
        report[f"polite {polite}, brief {brief}"] = {
            "kind": _share([_tone(text) > 0 for text in texts]),
            "sentences": round(sum(text.count(".") for text in texts) / n, 2),
            "tokens": round(sum(map(len, answers)) / n, 1),
            "well_formed": _share([well_formed(text) for text in texts]),
            "base_perplexity": round(math.exp(-logprobs.mean().item()), 2),
        }
    return report


def guided_answers(family: Family, split: HeldOut, n: int) -> Report:
    """Accuracy, courtesy and length of ordinary answers sampled at temperature 1 under guides."""
    report: Report = {}
    for kind in ("fact", "problem_1", "sum"):
        drawn = items(kind, split, n)
        for polite, brief in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
            answers = _guided(family, drawn, polite, brief)
            texts = [family.text(ids) for ids in answers]
            report[f"{kind}, polite {polite}, brief {brief}"] = {
                "accuracy": _share([item.is_right(text) for item, text in zip(drawn, texts, strict=True)]),
                "courteous": _share([text.endswith(COURTESIES) for text in texts]),
                "tokens": round(sum(map(len, answers)) / n, 1),
            }
    return report


def evaluate_family(folder: Path, split: HeldOut, n: int, scratch: Path) -> Report:
    """Measure everything, print it, and keep it in `scratch` as evaluation-SPLIT.json."""
    family = Family(folder, ("base", "small", "polite", "brief"))
    report: Report = {"split": split, "n": n}
    for measure in (accuracies, rankings, entropies, switching, guided_reviews, guided_answers):
        report[measure.__name__] = measure(family, split, n)
        print(json.dumps({measure.__name__: report[measure.__name__]}, indent=1), flush=True)
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / f"evaluation-{split}.json").write_text(json.dumps(report, indent=1) + "\n")
    return report
