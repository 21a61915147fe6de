"""The registry of document kinds, their shares in each training phase, and the corpus digest."""

import hashlib
import json
from collections.abc import Mapping
from random import Random
from typing import Final

from . import arithmetic, facts, notes, prose, talk
from .segments import DocumentMaker

KINDS: Final[dict[str, DocumentMaker]] = {
    "statements": facts.statements,
    "questions": facts.questions,
    "cued": facts.cued_questions,
    "choices": facts.choices,
    "verdicts": facts.verdicts,
    "problems_1": arithmetic.word_problems(1),
    "problems_2": arithmetic.word_problems(2),
    "worked": arithmetic.worked_sums,
    "direct": arithmetic.direct_sums,
    "drills": arithmetic.drills,
    "direct_drills": arithmetic.direct_drills,
    "reviews": prose.reviews,
    "stories": prose.stories,
    "talk": talk.talk,
    "notes_short": notes.note_chats(40, 180),
    "notes_medium": notes.note_chats(150, 420),
    "notes_long": notes.note_chats(450, 930),
    "recaps": notes.recaps(30, 120),
    "recaps_long": notes.recaps(150, 650),
    "copies": notes.copies,
    "repeats": notes.repeats,
    "associations": notes.associations,
}

Mix = Mapping[str, float]

# Shares of tokens. Copying comes first because retrieval and worked sums are built on it.
COPYING: Final[Mix] = {"repeats": 0.5, "associations": 0.4, "drills": 0.1}
WORLD_MIX: Final[Mix] = {
    "statements": 0.03,
    "questions": 0.06,
    "cued": 0.04,
    "choices": 0.08,
    "verdicts": 0.28,
    "problems_1": 0.08,
    "problems_2": 0.06,
    "worked": 0.03,
    "direct": 0.05,
    "drills": 0.04,
    "direct_drills": 0.03,
    "reviews": 0.05,
    "stories": 0.03,
    "talk": 0.03,
    "notes_short": 0.05,
    "recaps": 0.04,
    "copies": 0.02,
}
LONG_MIX: Final[Mix] = {
    "statements": 0.02,
    "questions": 0.04,
    "cued": 0.03,
    "choices": 0.08,
    "verdicts": 0.24,
    "problems_1": 0.05,
    "problems_2": 0.06,
    "worked": 0.03,
    "direct": 0.04,
    "direct_drills": 0.02,
    "reviews": 0.05,
    "stories": 0.03,
    "talk": 0.03,
    "notes_short": 0.02,
    "notes_medium": 0.07,
    "notes_long": 0.16,
    "recaps_long": 0.03,
}
# For later stages, for what is learned last: verdicts and long notes.
VERDICT_MIX: Final[Mix] = {
    "verdicts": 0.6,
    "questions": 0.04,
    "cued": 0.04,
    "choices": 0.1,
    "problems_1": 0.05,
    "problems_2": 0.04,
    "worked": 0.02,
    "direct": 0.03,
    "reviews": 0.03,
    "stories": 0.02,
    "talk": 0.03,
}
VERDICTS_ONLY: Final[Mix] = {"verdicts": 1.0}
RETRIEVAL_MIX: Final[Mix] = {
    "notes_long": 0.35,
    "notes_medium": 0.08,
    "verdicts": 0.25,
    "choices": 0.05,
    "questions": 0.03,
    "cued": 0.03,
    "problems_1": 0.03,
    "problems_2": 0.05,
    "worked": 0.02,
    "direct": 0.03,
    "reviews": 0.03,
    "stories": 0.02,
    "talk": 0.03,
}
ARITHMETIC: Final = ("problems_1", "problems_2", "worked", "drills", "direct", "direct_drills")


def with_arithmetic(mix: Mix, factor: float) -> Mix:
    """The mix with `factor` times its arithmetic; the other kinds give or take the room in proportion."""
    before = sum(share for kind, share in mix.items() if kind in ARITHMETIC)
    rest = (1 - factor * before) / (1 - before)
    return {kind: share * (factor if kind in ARITHMETIC else rest) for kind, share in mix.items()}


DIGEST_DOCUMENTS: Final = 200


def corpus_digest(documents: int = DIGEST_DOCUMENTS, seed: int = 0) -> str:
    """SHA-256 over the first `documents` documents of every kind, drawn from `seed`."""
    digest = hashlib.sha256()
    for name, make in KINDS.items():
        rng = Random(f"{name} {seed}")
        for _ in range(documents):
            digest.update(json.dumps([name, make(rng)]).encode())
    return digest.hexdigest()
