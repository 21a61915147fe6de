"""How a question is put to the model as generator and as discriminator (The Consensus Game, arXiv
2310.09139).

The paper conditions on `correct` and `incorrect` by prompts; their words are ours, and the caller may replace
them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Protocol

from pydantic import ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from decoders.errors import Refusal
from decoders.exact import Exact

Template = Annotated[str, Field(min_length=1, max_length=4096)]
_PLACE: Final = re.compile(r"\{(question|answer)\}")


def _require(template: str, *names: str) -> str:
    """The template, if it holds each of these placeholders once and no other."""
    if sorted(_PLACE.findall(template)) != sorted(names):
        listed = " and ".join(f"{{{name}}}" for name in names)
        raise PydanticCustomError(
            "placeholders", "Must hold {listed}, once each and no other", {"listed": listed}
        )
    return template


class Templates(Exact):
    """The words around question and answer; other braces than the placeholders' stand for themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: Template = Field(
        default="{question}\nAnswer:",
        description="After this the model gives a correct answer; holds {question}.",
    )
    generator_incorrect: Template = Field(
        default="{question}\nIncorrect answer:",
        description="After this the model gives an incorrect answer; holds {question}.",
    )
    answer: Template = Field(default=" {answer}", description="A candidate after these; holds {answer}.")
    discriminator: Template = Field(
        default="{question}\nProposed answer: {answer}\nIs the proposed answer correct?",
        description="After this the model judges an answer; holds {question} and {answer}.",
    )
    correct: Template = Field(default=" yes", description="The judgement that an answer is correct.")
    incorrect: Template = Field(default=" no", description="The judgement that it is not.")

    @field_validator("generator", "generator_incorrect")
    @classmethod
    def _asks(cls, template: str) -> str:
        return _require(template, "question")

    @field_validator("answer")
    @classmethod
    def _answers(cls, template: str) -> str:
        return _require(template, "answer")

    @field_validator("discriminator")
    @classmethod
    def _judges(cls, template: str) -> str:
        return _require(template, "question", "answer")

    @field_validator("correct", "incorrect")
    @classmethod
    def _labels(cls, template: str) -> str:
        return _require(template)


def filled(template: str, question: str, answer: str = "") -> str:
    """The template with its placeholders filled in, in one pass: what is filled in is read for none."""
    values = {"question": question, "answer": answer}
    return _PLACE.sub(lambda match: values[match[1]], template)


@dataclass(frozen=True)
class Continued:
    """Token ids of a prompt that several texts continue, and of each continuation."""

    prompt: list[int]
    continuations: list[list[int]]


class Phrasing(Protocol):
    """What a request's question is, and how other words for it reach the model: as text, or as a chat's
    turn.
    """

    @property
    def end(self) -> int | None:
        """The token that ends an answer, None if the tokenizer names none."""
        ...

    def require(self) -> None:
        """Raise Refusal where the question is not text."""
        ...

    async def continued(self, template: str, answer: str, texts: Sequence[str]) -> Continued:
        """`template` filled with the question and `answer`, and each of `texts` as what follows it.

        Raises Refusal where the question is not text.
        """
        ...


def phrasing_of(phrasing: Phrasing | None, method: str) -> Phrasing:
    """The phrasing of a request. Raises Refusal where there is no question in words."""
    if phrasing is None:
        raise Refusal(f"Method '{method}' needs the question as text.", "prompt")
    return phrasing


def end_of(phrasing: Phrasing) -> int:
    """The token that ends an answer. Raises Refusal where there is none."""
    if phrasing.end is None:
        raise Refusal("end: This model's tokenizer names no token that ends a text.", "end")
    return phrasing.end


def split(prompt: Sequence[int], wholes: Sequence[Sequence[int]]) -> Continued:
    """Prompt and continuations from the token ids of the prompt and of the whole texts.

    Where a tokenizer merges the prompt's end with a continuation's beginning, the prompt ends before the
    merged token, for all continuations: each is then scored with the same last words of the prompt before it.
    """
    shared = min((_agreement(prompt, whole) for whole in wholes), default=len(prompt))
    return Continued(list(prompt[:shared]), [list(whole[shared:]) for whole in wholes])


def _agreement(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
