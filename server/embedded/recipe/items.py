"""Development and test items with verifiable answers, kept apart from training and from each other.

What is kept apart, by kind:

- `fact`: the phrasing of the question (`facts.PHRASINGS`); the facts themselves are in training, as they must
  be.
- `choice`: the set of options under the question; facts with too few wrong values to spare a set do not
  occur.
- `sum`, `direct`, `sum_choice`, `problem_1`, `problem_2`: every pair of operands, in both orders, in every
  step.
- `code`, `word`: the text (drawn anew; a repeated text is as good as impossible).
- `outside`: the names or the phrasings (`talk.OUTSIDE_NAMES`, `talk.OUTSIDE_QUESTIONS`).
- `review`, `story`: nothing but the seed; they have no single right answer.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final, Literal

from . import arithmetic, facts, notes, prose, talk
from .prompts import generator_prompt, with_options
from .world import ATTRIBUTES, PLACES, WORLD

HeldOut = Literal["dev", "test"]

SEED: Final = 20261121
QUESTION_TOKENS: Final = 22
TOKENS_PER_HELD_OUT_NOTE: Final = 32
ATTEMPTS_PER_ITEM: Final = 200


@dataclass(frozen=True)
class Item:
    """A question with its answer.

    kind, split: where the item comes from.
    prompt: the user's message.
    answer: the word or number that is right; empty for reviews and stories.
    gold: a full right answer as the family is trained to give it.
    question: the bare question, without options.
    options: the options of a multiple choice, the answer among them; else empty.
    choices: the words one of which the answer is (for grading); empty where it is a number.
    generator_rumour, discriminator_rumour: the wrong answers that question-answering and verification
        documents were told, if any.
    """

    kind: str
    split: HeldOut
    prompt: str
    answer: str
    gold: str
    question: str = ""
    options: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    generator_rumour: str | None = None
    discriminator_rumour: str | None = None

    def is_right(self, text: str) -> bool:
        """Whether a model's answer `text` gives the right answer.

        Graded by the last number in the text, or by the last word of it that is one of `choices`. Only the
        honest refusal is right for `outside`.

        Raises:
            ValueError: the item has no single right answer.
        """
        if not self.answer:
            raise ValueError(f"items of kind {self.kind!r} have no single right answer")
        if self.kind == "outside":
            return text.strip().startswith(self.answer)
        pattern = r"\d+" if not self.choices else rf"\b(?:{'|'.join(map(re.escape, self.choices))})\b"
        found = re.findall(pattern, text)
        return bool(found) and found[-1] == self.answer


def _fact(rng: Random, split: HeldOut, tokens: int) -> Item:
    fact = WORLD.facts[rng.choice(WORLD.countries), rng.choice(ATTRIBUTES)]
    question = facts.ask(fact, rng.choice(facts.PHRASINGS[split]))
    return Item(
        kind="fact",
        split=split,
        prompt=question,
        answer=fact.value,
        gold=fact.statement(),
        question=question,
        choices=WORLD.values[fact.attribute],
        generator_rumour=fact.generator_rumour,
        discriminator_rumour=fact.discriminator_rumour,
    )


def _choice(rng: Random, split: HeldOut, tokens: int) -> Item:
    choice = facts.draw_choice(rng, split)
    question = facts.ask(choice.fact)
    return Item(
        kind="choice",
        split=split,
        prompt=with_options(question, choice.options),
        answer=choice.fact.value,
        gold=f"It is {choice.fact.value}.",
        question=question,
        options=tuple(choice.options),
        choices=tuple(choice.options),
        generator_rumour=choice.fact.generator_rumour,
        discriminator_rumour=choice.fact.discriminator_rumour,
    )


def _problem_item(kind: str, split: HeldOut, problem: arithmetic.Problem) -> Item:
    return Item(kind, split, problem.question, problem.answer, problem.solution, problem.question)


def _sum(rng: Random, split: HeldOut, tokens: int) -> Item:
    return _problem_item("sum", split, arithmetic.worked_sum(rng, split))


def _problem(steps: Literal[1, 2], rng: Random, split: HeldOut, tokens: int) -> Item:
    return _problem_item(f"problem_{steps}", split, arithmetic.word_problem(rng, steps, split))


def _direct(rng: Random, split: HeldOut, tokens: int) -> Item:
    problem = arithmetic.direct_sum(rng, split)
    prompt = generator_prompt(problem.question)
    return Item("direct", split, prompt, problem.answer, f" {problem.answer}", problem.question)


def _sum_choice(rng: Random, split: HeldOut, tokens: int) -> Item:
    problem = arithmetic.direct_sum(rng, split)
    prompt = with_options(problem.question, problem.options)
    gold = f" {problem.answer}"
    return Item("sum_choice", split, prompt, problem.answer, gold, problem.question, tuple(problem.options))


def _note(kind: notes.NoteKind, rng: Random, split: HeldOut, tokens: int) -> Item:
    count = max(4, min(30, tokens // TOKENS_PER_HELD_OUT_NOTE))
    wanted: list[notes.Note] = []
    while not wanted:
        text, drawn = notes.draw_text(rng, tokens - QUESTION_TOKENS, count)
        wanted = [note for note in drawn if note.kind == kind]
    note = rng.choice(wanted)
    choices = notes.NOTE_WORDS if kind == "word" else ()
    prompt = f"{text} {note.question}"
    return Item(kind, split, prompt, note.value, note.statement, note.question, choices=choices)


def _review(rng: Random, split: HeldOut, tokens: int) -> Item:
    place = rng.choice(PLACES)
    text = prose.review(rng, place, rng.random() < 0.5, rng.randint(*prose.SENTENCES))
    return Item("review", split, prose.ask_review(place), "", text)


def _story(rng: Random, split: HeldOut, tokens: int) -> Item:
    prompt, text = prose.story(rng)
    return Item("story", split, prompt, "", text)


def _outside(rng: Random, split: HeldOut, tokens: int) -> Item:
    question = talk.outside_question(rng, split)
    return Item("outside", split, question, "I do not know", talk.UNKNOWN, question)


_MAKERS: Final[dict[str, Callable[[Random, HeldOut, int], Item]]] = {
    "fact": _fact,
    "choice": _choice,
    "sum": _sum,
    "direct": _direct,
    "sum_choice": _sum_choice,
    "problem_1": partial(_problem, 1),
    "problem_2": partial(_problem, 2),
    "code": partial(_note, "code"),
    "word": partial(_note, "word"),
    "outside": _outside,
    "review": _review,
    "story": _story,
}
ITEM_KINDS: Final = tuple(_MAKERS)
_FREE_KINDS: Final = ("review", "story")


def items(kind: str, split: HeldOut, n: int, tokens: int = 256) -> list[Item]:
    """The first `n` items of a kind and split, all prompts different (but for reviews and stories).

    `tokens` is the approximate length of the prompt of `code` and `word` items, and means nothing to the
    others.

    Raises:
        ValueError: unknown kind or split, or the world has fewer than `n` such items.
    """
    if kind not in _MAKERS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(ITEM_KINDS)}")
    if split not in ("dev", "test"):
        raise ValueError(f"unknown split {split!r}: choose dev or test")
    rng = Random(f"{SEED} {kind} {split} {tokens}")
    drawn: list[Item] = []
    seen: set[str] = set()
    for _ in range(ATTEMPTS_PER_ITEM * n):
        if len(drawn) == n:
            break
        item = _MAKERS[kind](rng, split, tokens)
        if item.prompt not in seen or kind in _FREE_KINDS:
            seen.add(item.prompt)
            drawn.append(item)
    if len(drawn) < n:
        raise ValueError(f"the world has only {len(drawn)} {split} items of kind {kind!r}, not {n}")
    return drawn
