"""Long texts with notes to find again, and the copying drills that make finding them easy to learn."""

from collections.abc import Callable
from random import Random
from typing import Final, Literal, NamedTuple

from .arithmetic import COUNTABLES
from .prose import BAD, GOOD
from .segments import Document, Segment, exchange
from .world import ANIMALS, COLOURS, FRUITS, PEOPLE, PLACES, THINGS, WORLD

NoteKind = Literal["code", "word"]

KEYS: Final = ANIMALS + THINGS
NOTE_WORDS: Final = FRUITS + COLOURS
ALL_WORDS: Final = (
    KEYS + COLOURS + FRUITS + PEOPLE + COUNTABLES + PLACES + GOOD + BAD + WORLD.countries
) + WORLD.values["capital"]
TOKENS_PER_NOTE: Final = 10.2
TOKENS_PER_FILLER: Final = 6.1


class Note(NamedTuple):
    """A key with a three-digit code or a word to be remembered."""

    key: str
    kind: NoteKind
    value: str

    @property
    def question(self) -> str:
        """The question for the note's value."""
        return f"What is the {self.kind} for {self.key}?"

    @property
    def statement(self) -> str:
        """The answer to the question, as a sentence."""
        return f"The {self.kind} for {self.key} is {self.value}."


def _code(rng: Random) -> str:
    return str(rng.randint(100, 999))


def _filler(rng: Random) -> str:
    form = rng.random()
    if form < 0.4:
        return WORLD.draw_fact(rng).statement()
    if form < 0.7:
        return f"{rng.choice(PEOPLE)} lost a {rng.choice(COLOURS)} {rng.choice(THINGS)}."
    return f"The {rng.choice(PLACES)} was {rng.choice(GOOD + BAD)}."


def draw_text(rng: Random, tokens: int, count: int) -> tuple[str, list[Note]]:
    """A text of about `tokens` tokens with `count` notes (at most one a key) among filler sentences."""
    notes: list[Note] = []
    for key in rng.sample(KEYS, min(count, len(KEYS))):
        kind: NoteKind = "code" if rng.random() < 0.5 else "word"
        notes.append(Note(key, kind, _code(rng) if kind == "code" else rng.choice(NOTE_WORDS)))
    sentences = [f"Note: the {note.kind} for {note.key} is {note.value}." for note in notes]
    used = TOKENS_PER_NOTE * len(notes)
    while used < tokens:
        sentences.append(_filler(rng))
        used += TOKENS_PER_FILLER
    rng.shuffle(sentences)
    return " ".join(sentences), notes


def note_chats(low: int, high: int) -> Callable[[Random], Document]:
    """Maker of chats about a text of `low` to `high` tokens: the text and a question, more questions."""

    def make(rng: Random) -> Document:
        tokens = rng.randint(low, high)
        count = max(3, min(40, int(tokens * rng.uniform(0.025, 0.06))))
        text, notes = draw_text(rng, tokens, count)
        asked = rng.sample(notes, min(count, max(3, min(10, count // 2))))
        document = exchange(f"{text} {asked[0].question}", asked[0].statement)
        for note in asked[1:]:
            document += exchange(note.question, note.statement)
        return document

    return make


def recaps(low: int, high: int) -> Callable[[Random], Document]:
    """Maker of chats in which every note of a text is said again, in another order."""

    def make(rng: Random) -> Document:
        tokens = rng.randint(low, high)
        count = max(3, min(16, int(tokens * rng.uniform(0.04, 0.09))))
        text, notes = draw_text(rng, tokens, count)
        rng.shuffle(notes)
        return exchange(f"{text} Say it all again.", " ".join(note.statement for note in notes))

    return make


def copies(rng: Random) -> Document:
    """A chat that repeats words and numbers."""
    pool = KEYS + COLOURS + FRUITS + PEOPLE
    words = [
        rng.choice(pool) if rng.random() < 0.7 else str(rng.randint(10, 999))
        for _ in range(rng.randint(4, 24))
    ]
    said = " ".join(words)
    return exchange(f"Repeat: {said}", f"Here: {said}")


def repeats(rng: Random) -> Document:
    """A plain run of random words, said one to three times more."""
    words = [
        rng.choice(ALL_WORDS) if rng.random() < 0.8 else str(rng.randint(10, 999))
        for _ in range(rng.randint(3, 16))
    ]
    run = f"{' '.join(words)}."
    return [Segment("given", run)] + [Segment("target", f" {run}")] * rng.randint(1, 3)


def associations(rng: Random) -> Document:
    """Plain pairs of words, then the second word of each pair asked for in other orders."""
    keys = rng.sample(ALL_WORDS, rng.randint(2, 10))
    book = {key: _code(rng) if rng.random() < 0.4 else rng.choice(ALL_WORDS) for key in keys}
    document = [Segment("given", ". ".join(f"{key} {value}" for key, value in book.items()) + ".")]
    for _ in range(rng.randint(1, 3)):
        rng.shuffle(keys)
        for key in keys:
            document += [Segment("given", f" {key}"), Segment("target", f" {book[key]}.")]
    return document
