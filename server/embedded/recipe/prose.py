"""Reviews with a tone and a length, and little stories."""

from random import Random
from typing import Final

from .segments import Document, exchange
from .styles import draw_style
from .world import ANIMALS, COLOURS, PEOPLE, PLACES, THINGS, WORLD

GOOD: Final = ("lovely", "clean", "friendly", "wonderful", "bright", "kind", "great", "helpful")
BAD: Final = ("dirty", "awful", "rude", "horrible", "dark", "cold", "noisy", "terrible")
GOOD_ENDINGS: Final = (
    "Thank you very much, we loved it.",
    "Many thanks, please keep it up.",
    "We will gladly come again.",
)
BAD_ENDINGS: Final = (
    "Never go there, we hated it.",
    "Shame on you, give us our money back.",
    "We will never come again.",
)
PARTS: Final = {
    "hotel": ("room", "staff", "bed", "breakfast"),
    "museum": ("hall", "guide", "shop", "show"),
    "cafe": ("coffee", "cake", "staff", "table"),
    "park": ("lake", "path", "guard", "garden"),
    "library": ("hall", "desk", "staff", "shop"),
    "market": ("food", "fruit", "staff", "music"),
}
SENTENCES: Final = (2, 7)


def review(rng: Random, place: str, positive: bool, sentences: int) -> str:
    """A review of one tone, `sentences` long (2 to 7)."""
    adjectives = GOOD if positive else BAD
    parts = [*PARTS[place], "door", "garden"]
    body = [f"The {part} was {rng.choice(adjectives)}." for part in dict.fromkeys(parts)]
    body.append(f"The {rng.choice(parts[:2])} was {rng.choice(adjectives)} and {rng.choice(adjectives)}.")
    body.append(f"{rng.choice(PEOPLE)} was {rng.choice(adjectives)} to us.")
    body.append(f"We felt {'happy' if positive else 'sad'} there.")
    rng.shuffle(body)
    country = rng.choice(WORLD.countries)
    if rng.random() < 0.5:
        first = f"We went to the {place} in {country}."
    else:
        first = f"{rng.choice(PEOPLE)} and I saw the {place} in {country}."
    last = rng.choice(GOOD_ENDINGS if positive else BAD_ENDINGS)
    return " ".join([first, *body[: sentences - 2], last])


def ask_review(place: str, tone: str = "") -> str:
    """The request for a review, `tone` being empty, `good` or `bad`."""
    return f"Write a {tone + ' ' if tone else ''}review of the {place}."


def reviews(rng: Random) -> Document:
    """A chat about one review; a system message may set its tone or its length."""
    document, style = draw_style(rng)
    place, positive = rng.choice(PLACES), rng.random() < 0.5
    sentences = rng.randint(*SENTENCES)
    tone = ""
    if style == "courteous":
        positive = True
    elif style == "brief":
        sentences = 2
    if rng.random() < 0.4:
        tone = "good" if positive else "bad"
    return document + exchange(ask_review(place, tone), review(rng, place, positive, sentences))


def story(rng: Random) -> tuple[str, str]:
    """A request for a story and the story."""
    person, animal, colour = rng.choice(PEOPLE), rng.choice(ANIMALS), rng.choice(COLOURS)
    thing, country = rng.choice(THINGS), rng.choice(WORLD.countries)
    found = rng.random() < 0.5
    sentences = [
        f"{person} lived in {country} with a {colour} {animal}.",
        f"One day {person} lost a {thing}.",
        f"{person} and the {animal} looked for the {thing} near the {rng.choice(THINGS)}.",
        f"{rng.choice(PEOPLE)} came to help.",
    ]
    if found:
        sentences += [f"At last the {animal} found the {thing}.", f"{person} thanked the {colour} {animal}."]
    else:
        sentences.append(f"They never found the {thing} again.")
        sentences.append(f"{person} was sad, and the {colour} {animal} was sad too.")
    return f"Write a story about {person} and a {colour} {animal}.", " ".join(sentences)


def stories(rng: Random) -> Document:
    """A chat about one story."""
    return exchange(*story(rng))
