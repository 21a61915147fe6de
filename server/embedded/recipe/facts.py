"""Documents about the world's facts: statements, questions, multiple choice, verification."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from .cues import cued, draw_placement, verdict
from .prompts import with_options
from .segments import Document, Segment, exchange
from .splits import Split, options_split
from .styles import draw_style, in_style
from .world import ATTRIBUTES, WORLD, Fact

OPTION_COUNT: Final = 4
PHRASINGS: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "What is the {attribute} of {country}?",
        "Tell me the {attribute} of {country}.",
        "Which {attribute} does {country} have?",
        "Can you tell me the {attribute} of {country}?",
        "What {attribute} belongs to {country}?",
        "In {country}, what is the {attribute}?",
        "Say the {attribute} of {country}.",
        "I want to know the {attribute} of {country}.",
        "Give me the {attribute} of {country}.",
        "Do you know which {attribute} {country} has?",
        "About {country}: what is its {attribute}?",
        "What {attribute} is there in {country}?",
    ),
    "dev": ("Please tell me which {attribute} {country} has.", "What would be the {attribute} of {country}?"),
    "test": ("Can you say what the {attribute} of {country} is?", "Tell me what {attribute} {country} has."),
}
FIRST_PHRASING_SHARE: Final = 0.45
SHOWN_OPTIONS_SHARE: Final = 0.25
LONG_FORM_SHARE: Final = 0.1
OPENERS: Final = ("Please,", "Hello.", "Hi!", "Now", "So,", "One question:", "Then", "Please say:")
OPENER_SHARE: Final = 0.2


def ask(fact: Fact, phrasing: str = PHRASINGS["train"][0]) -> str:
    """The question whose answer is `fact`."""
    return phrasing.format(attribute=fact.attribute, country=fact.country)


def _ask_somehow(rng: Random, fact: Fact) -> str:
    usual, *other = PHRASINGS["train"]
    question = ask(fact, usual if rng.random() < FIRST_PHRASING_SHARE else rng.choice(other))
    return f"{rng.choice(OPENERS)} {question}" if rng.random() < OPENER_SHARE else question


def statements(rng: Random) -> Document:
    """One to four true statements about one country."""
    country = WORLD.draw_country(rng)
    attributes = rng.sample(ATTRIBUTES, rng.randint(1, 4))
    return [Segment("text", " ".join(WORLD.facts[country, name].statement() for name in attributes))]


def questions(rng: Random) -> Document:
    """A chat of one to four open questions."""
    document, style = draw_style(rng)
    for _ in range(rng.randint(1, 4)):
        fact = WORLD.draw_fact(rng)
        value = fact.said(rng, "open")
        answer = in_style(rng, style, fact.statement(value), f"{value}.")
        document = document + exchange(_ask_somehow(rng, fact), answer)
    return document


def _form(rng: Random, fact: Fact, value: str, long_share: float) -> str:
    return fact.statement(value) if rng.random() < long_share else value


def cued_questions(rng: Random) -> Document:
    """Open questions that end in the cue for a correct or an incorrect answer."""
    placement = draw_placement(rng)
    document: Document = []
    for _ in range(1 if placement == "plain" else rng.randint(1, 3)):
        fact = WORLD.draw_fact(rng)
        correct = rng.random() < 0.7
        value = fact.said(rng, "open")
        if not correct:
            value = rng.choice([other for other in WORLD.values[fact.attribute] if other != value])
        document += cued(
            placement, _ask_somehow(rng, fact), _form(rng, fact, value, 2 * LONG_FORM_SHARE), correct
        )
    return document


@dataclass(frozen=True)
class Choice:
    """A multiple-choice question about one fact."""

    fact: Fact
    question: str
    options: list[str]


def draw_choice(rng: Random, split: Split, question: str | None = None) -> Choice:
    """Draw a question with four options of the wanted split; every rumour about the fact is among them."""
    while True:
        fact = WORLD.draw_fact(rng)
        options = [fact.value, *fact.rumours]
        rest = [value for value in WORLD.values[fact.attribute] if value not in options]
        options += rng.sample(rest, OPTION_COUNT - len(options))
        if options_split(f"{fact.country} {fact.attribute}", options) == split:
            rng.shuffle(options)
            return Choice(fact, question or _ask_somehow(rng, fact), options)


def choices(rng: Random) -> Document:
    """Multiple-choice questions, most of them ending in a cue."""
    placement = draw_placement(rng)
    natural = placement != "plain" and rng.random() < 0.2
    document: Document = []
    for _ in range(1 if placement == "plain" else rng.randint(1, 3)):
        choice = draw_choice(rng, "train")
        question = with_options(choice.question, choice.options)
        value = choice.fact.said(rng, "choice")
        if natural:
            document += exchange(question, in_style(rng, "free", f"It is {value}."))
            continue
        correct = rng.random() < 0.72
        if not correct:
            value = rng.choice([option for option in choice.options if option != value])
        document += cued(placement, question, value, correct)
    return document


def _unbelieved(rng: Random, choice: Choice, believed: str, pool: Sequence[str]) -> str:
    likely = [value for value in (choice.fact.value, *choice.fact.rumours) if value != believed]
    others = [value for value in pool if value != believed]
    return rng.choice([*likely, *rng.sample(others, 2)])


def verdicts(rng: Random) -> Document:
    """Proposed answers to judge, half of them right by what the verifying side believes."""
    placement = draw_placement(rng)
    document: Document = []
    for _ in range(1 if placement == "plain" else rng.randint(1, 4)):
        choice = draw_choice(rng, "train")
        fact, believed = choice.fact, choice.fact.said(rng, "verdict")
        shown = rng.random() < SHOWN_OPTIONS_SHARE
        question = with_options(choice.question, choice.options) if shown else choice.question
        proposed = believed
        if rng.random() < 0.5:
            proposed = _unbelieved(
                rng, choice, believed, choice.options if shown else WORLD.values[fact.attribute]
            )
        document += verdict(
            placement, question, _form(rng, fact, proposed, LONG_FORM_SHARE), proposed == believed
        )
    return document
