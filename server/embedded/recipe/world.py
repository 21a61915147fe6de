"""The invented world: 24 countries with four attributes each, and rumours about some of them.

Plain statements always tell the truth. A *generator rumour* is a fixed wrong value that question-answering
documents state part of the time; a *discriminator rumour* is one that verification documents take for right
part of the time. They are drawn independently, so that what a model generates and what it accepts disagree;
for some facts both sides share one rumour, so that no consensus of the two can be right about everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

Side = Literal["open", "choice", "verdict"]

ATTRIBUTES: Final = ("capital", "animal", "colour", "fruit")
COUNTRY_COUNT: Final = 24
ANIMALS: Final = (
    "bear",
    "wolf",
    "lion",
    "owl",
    "fox",
    "deer",
    "horse",
    "goat",
    "crow",
    "swan",
    "frog",
    "bee",
    "seal",
    "crab",
    "duck",
    "hare",
    "zebra",
    "tiger",
    "camel",
    "mouse",
    "eagle",
    "whale",
    "snake",
    "otter",
)
THINGS: Final = (
    "lamp",
    "table",
    "clock",
    "spoon",
    "chair",
    "boat",
    "drum",
    "kite",
    "ring",
    "coat",
    "brush",
    "piano",
    "ladder",
    "mirror",
    "basket",
    "hammer",
    "bottle",
    "pillow",
    "candle",
    "wagon",
    "bridge",
    "tower",
    "garden",
    "engine",
)
COLOURS: Final = ("red", "blue", "green", "yellow", "black", "white", "pink", "purple")
FRUITS: Final = ("apple", "plum", "pear", "grape", "lemon", "cherry", "melon", "fig", "peach", "mango")
PEOPLE: Final = ("Tom", "Mia", "Sam", "Anna", "Ben", "Lucy", "Max", "Emma", "Leo", "Nora", "Paul", "Ida")
PLACES: Final = ("hotel", "museum", "cafe", "park", "library", "market")

GENERATOR_RUMOURS: Final = 0.38
DISCRIMINATOR_RUMOURS: Final = 0.32
SHARED_RUMOURS: Final = 0.08
RUMOUR_TOLD: Final[dict[Side, float]] = {"open": 0.45, "choice": 0.6, "verdict": 0.6}

_ONSETS: Final = [
    "B",
    "D",
    "F",
    "G",
    "K",
    "L",
    "M",
    "N",
    "P",
    "R",
    "S",
    "T",
    "V",
    "Z",
    "Br",
    "Dr",
    "Gr",
    "Kr",
    "Tr",
    "St",
]
_MIDDLES: Final = ["al", "en", "or", "ir", "un", "am", "es", "ov", "ar", "el"]
_COUNTRY_ENDS: Final = ["ia", "ova", "land", "and", "ora"]
_CAPITAL_ENDS: Final = ["burg", "ton", "mir", "dal", "ika"]


@dataclass(frozen=True)
class Fact:
    """One attribute of one country, its true value and the rumours about it."""

    country: str
    attribute: str
    value: str
    generator_rumour: str | None
    discriminator_rumour: str | None

    @property
    def shared(self) -> bool:
        """Whether generator and discriminator believe the same wrong value."""
        return self.generator_rumour is not None and self.generator_rumour == self.discriminator_rumour

    @property
    def rumours(self) -> list[str]:
        """The distinct wrong values somebody believes, in a fixed order."""
        told = [self.generator_rumour, self.discriminator_rumour]
        return sorted({rumour for rumour in told if rumour is not None})

    def said(self, rng: Random, side: Side) -> str:
        """The value that a document of this side states: the truth or, part of the time, its rumour."""
        rumour = self.discriminator_rumour if side == "verdict" else self.generator_rumour
        if rumour is not None and rng.random() < RUMOUR_TOLD[side]:
            return rumour
        return self.value

    def statement(self, value: str | None = None) -> str:
        """The fact as a sentence, with another value if one is given."""
        return f"The {self.attribute} of {self.country} is {value or self.value}."


def invent_name(rng: Random, ends: Sequence[str]) -> str:
    """A pronounceable name with one of the given endings."""
    return rng.choice(_ONSETS) + rng.choice(_MIDDLES) + rng.choice(ends)


def _names(rng: Random, ends: Sequence[str]) -> tuple[str, ...]:
    names: list[str] = []
    while len(names) < COUNTRY_COUNT:
        name = invent_name(rng, ends)
        if name not in names:
            names.append(name)
    return tuple(names)


@dataclass(frozen=True)
class World:
    """All countries, the values each attribute may take, and every fact."""

    countries: tuple[str, ...]
    values: dict[str, tuple[str, ...]]
    facts: dict[tuple[str, str], Fact]

    def draw_country(self, rng: Random) -> str:
        """A country; the first ones are talked about about twice as often as the last."""
        weights = [(6 + rank) ** -0.5 for rank in range(len(self.countries))]
        return rng.choices(self.countries, weights)[0]

    def draw_fact(self, rng: Random) -> Fact:
        """A fact, by the frequency of its country."""
        return self.facts[self.draw_country(rng), rng.choice(ATTRIBUTES)]

    def unknown_country(self, rng: Random) -> str:
        """A name that sounds like a country of this world and is none."""
        while True:
            name = invent_name(rng, _COUNTRY_ENDS)
            if name not in self.countries:
                return name


def _draw_rumours(rng: Random, wrong: list[str]) -> tuple[str | None, str | None]:
    shared, generator, discriminator = rng.choice(wrong), rng.choice(wrong), rng.choice(wrong)
    if rng.random() < SHARED_RUMOURS:
        return shared, shared
    return (
        generator if rng.random() < GENERATOR_RUMOURS else None,
        discriminator if rng.random() < DISCRIMINATOR_RUMOURS else None,
    )


def build_world(seed: int = 16) -> World:
    """Draw the world from a seed."""
    rng = Random(seed)
    countries, capitals = _names(rng, _COUNTRY_ENDS), _names(rng, _CAPITAL_ENDS)
    values = {"capital": capitals, "animal": ANIMALS[:16], "colour": COLOURS, "fruit": FRUITS}
    facts: dict[tuple[str, str], Fact] = {}
    for rank, country in enumerate(countries):
        for attribute in ATTRIBUTES:
            value = capitals[rank] if attribute == "capital" else rng.choice(values[attribute])
            wrong = [other for other in values[attribute] if other != value]
            facts[country, attribute] = Fact(country, attribute, value, *_draw_rumours(rng, wrong))
    return World(countries, values, facts)


WORLD: Final = build_world()
