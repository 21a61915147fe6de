"""Documents about sums of two digits: worked, direct, as word problems, as multiple choice; and drills."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Literal

from .cues import cued, draw_placement, verdict
from .prompts import Placement, generator_prompt, with_options
from .segments import Document, Segment, exchange
from .splits import Split, pair_split
from .styles import draw_style, in_style
from .world import PEOPLE

Operator = Literal["+", "-"]

COUNTABLES: Final = ("apples", "coins", "books", "pens", "shells", "cards", "stones", "stamps")
VERBS: Final[dict[Operator, tuple[str, ...]]] = {
    "+": ("finds", "buys", "gets"),
    "-": ("loses", "sells", "gives away"),
}
OTHER_FORM_SHARE: Final = 0.3
DIRECT_RANGE: Final = (1, 30)
NEAR_MISSES: Final = (1, -1, 2, -2, 10, -10, 11, -9, 9, 20)


def apply(a: int, operator: Operator, b: int) -> int:
    """The sum's value."""
    return a + b if operator == "+" else a - b


def draw_operator(rng: Random) -> Operator:
    """Plus or minus."""
    return "+" if rng.random() < 0.5 else "-"


def draw_pair(rng: Random, operator: Operator, split: Split, low: int, high: int) -> tuple[int, int]:
    """Two operands of a split; a difference is greater than 0."""
    while True:
        a, b = rng.randint(low, high), rng.randint(low, high)
        if (a != b or operator == "+") and pair_split(a, b) == split:
            return (max(a, b), min(a, b)) if operator == "-" else (a, b)


def worked(a: int, operator: Operator, b: int) -> str:
    """The sum done digit by digit, as one sentence."""
    tens_a, ones_a = divmod(a, 10)
    tens_b, ones_b = divmod(b, 10)
    result = apply(a, operator, b)
    if operator == "+":
        ones, carried = ones_a + ones_b, ones_a + ones_b >= 10
        tens, carry = tens_a + tens_b + carried, " + 1" if carried else ""
        work = f"ones {ones_a} + {ones_b} = {ones}, tens {tens_a} + {tens_b}{carry} = {tens}"
    else:
        borrowed = ones_a < ones_b
        ones_a += 10 * borrowed
        tens, borrow = tens_a - tens_b - borrowed, " - 1" if borrowed else ""
        work = f"ones {ones_a} - {ones_b} = {ones_a - ones_b}, tens {tens_a} - {tens_b}{borrow} = {tens}"
    return f"{a} {operator} {b}: {work}, so {a} {operator} {b} = {result}."


@dataclass(frozen=True)
class Problem:
    """A question about numbers with its full solution and its final answer."""

    question: str
    solution: str
    answer: str


def _first_step(rng: Random, steps: int, split: Split) -> tuple[int, Operator, int]:
    operator = draw_operator(rng)
    a, b = draw_pair(rng, operator, split, 10, 99 if steps == 1 else 49)
    return a, operator, b


def _second_step(rng: Random, value: int, split: Split) -> tuple[Operator, int] | None:
    operator = "+" if value < 10 else draw_operator(rng)
    low, high = (10, 49) if operator == "+" else (1, value - 1)
    operands = [c for c in range(low, high + 1) if c != value and pair_split(value, c) == split]
    return (operator, rng.choice(operands)) if operands else None


def word_problem(rng: Random, steps: Literal[1, 2], split: Split) -> Problem:
    """A story sum of one or two steps; every pair of operands in it belongs to `split`."""
    person, thing = rng.choice(PEOPLE), rng.choice(COUNTABLES)
    while True:
        a, operator, b = _first_step(rng, steps, split)
        value = apply(a, operator, b)
        story = f"{person} has {a} {thing}. {person} {rng.choice(VERBS[operator])} {b}."
        solution = worked(a, operator, b)
        if steps == 2:
            then = _second_step(rng, value, split)
            if then is None:
                continue
            story += f" Then {person} {rng.choice(VERBS[then[0]])} {then[1]}."
            solution += f" Then {worked(value, *then)}"
            value = apply(value, *then)
        question = f"{story} How many {thing} does {person} have?"
        return Problem(question, f"{solution} The answer is {value}.", str(value))


def worked_sum(rng: Random, split: Split, low: int = 10) -> Problem:
    """A bare sum of operands from `low` to 99, answered with its working."""
    operator = draw_operator(rng)
    a, b = draw_pair(rng, operator, split, low, 99 if low >= 10 else DIRECT_RANGE[1])
    solution = f"{worked(a, operator, b)} The answer is {apply(a, operator, b)}."
    return Problem(f"What is {a} {operator} {b}?", solution, str(apply(a, operator, b)))


@dataclass(frozen=True)
class DirectSum:
    """A small sum to be answered at once, and four options for it."""

    question: str
    answer: str
    options: list[str]


def direct_sum(rng: Random, split: Split) -> DirectSum:
    """Draw operands up to 30; the wrong options are near misses."""
    operator = draw_operator(rng)
    a, b = draw_pair(rng, operator, split, *DIRECT_RANGE)
    value = apply(a, operator, b)
    wrong = rng.sample([value + miss for miss in NEAR_MISSES if value + miss >= 0], 3)
    options = [str(option) for option in (value, *wrong)]
    rng.shuffle(options)
    return DirectSum(f"What is {a} {operator} {b}?", str(value), options)


def word_problems(steps: Literal[1, 2]) -> Callable[[Random], Document]:
    """Maker of chats of word problems with `steps` steps."""

    def make(rng: Random) -> Document:
        document, style = draw_style(rng)
        for _ in range(rng.randint(1, 3) if steps == 1 else 1):
            problem = word_problem(rng, steps, "train")
            document = document + exchange(problem.question, in_style(rng, style, problem.solution))
        return document

    return make


def _other_form(rng: Random, question: str) -> str:
    expression = question.removeprefix("What is ").removesuffix("?")
    tight = expression.replace(" ", "")
    return rng.choice(
        [expression, tight, f"{expression} =", f"What is {tight}?", f"How much is {expression}?"]
    )


def worked_sums(rng: Random) -> Document:
    """A chat of bare sums with their working."""
    document, style = draw_style(rng)
    for _ in range(rng.randint(1, 4)):
        problem = worked_sum(rng, "train", low=10 if rng.random() < 0.65 else 1)
        if rng.random() < OTHER_FORM_SHARE:
            problem = replace(problem, question=_other_form(rng, problem.question))
        document = document + exchange(problem.question, in_style(rng, style, problem.solution))
    return document


def direct_sums(rng: Random) -> Document:
    """Small sums answered at once, chosen among options, or judged."""
    placement = draw_placement(rng)
    document: Document = []
    for _ in range(1 if placement == "plain" else rng.randint(2, 5)):
        problem, form = direct_sum(rng, "train"), rng.random()
        if form < 0.35:
            document += cued(placement, problem.question, problem.answer, True)
        elif form < 0.65:
            document += _sum_choice(rng, problem, placement)
        else:
            proposed = problem.answer if rng.random() < 0.5 else _wrong_option(rng, problem)
            document += verdict(placement, problem.question, proposed, proposed == problem.answer)
    return document


def _wrong_option(rng: Random, problem: DirectSum) -> str:
    return rng.choice([option for option in problem.options if option != problem.answer])


def _sum_choice(rng: Random, problem: DirectSum, placement: Placement) -> Document:
    correct = rng.random() < 0.75
    answer = problem.answer if correct else _wrong_option(rng, problem)
    return cued(placement, with_options(problem.question, problem.options), answer, correct)


def _digit_drill(rng: Random) -> tuple[str, int]:
    a, b, carry = rng.randint(0, 9), rng.randint(0, 9), rng.random() < 0.4
    if rng.random() < 0.55:
        return f"{a} + {b}{' + 1' if carry else ''}", a + b + carry
    result = rng.randint(0, 9)
    return f"{result + b + carry} - {b}{' - 1' if carry else ''}", result


def drills(rng: Random) -> Document:
    """A plain row of single-digit sums, with carries and borrows."""
    document: Document = []
    for _ in range(rng.randint(6, 14)):
        expression, value = _digit_drill(rng)
        space = " " if document else ""
        document += [Segment("given", f"{space}{expression} ="), Segment("target", f" {value}.")]
    return document


def direct_drills(rng: Random) -> Document:
    """A plain row of small sums answered at once."""
    document: Document = []
    for _ in range(rng.randint(6, 14)):
        operator = draw_operator(rng)
        a, b = draw_pair(rng, operator, "train", *DIRECT_RANGE)
        space = " " if document else ""
        document.append(Segment("given", f"{space}{a} {operator} {b} ="))
        document.append(Segment("target", f" {apply(a, operator, b)}."))
    return document


def direct_prompt(problem: DirectSum) -> str:
    """The prompt that asks for the bare number."""
    return generator_prompt(problem.question)
