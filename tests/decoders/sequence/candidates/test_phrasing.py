"""Templates, and where a prompt ends when the tokenizer merges it with its continuation."""

from typing import Any

import pytest
from pydantic import ValidationError

from decoders.sequence.candidates.phrasing import Templates, filled, split


def test_what_is_filled_in_is_read_for_no_placeholder() -> None:
    template = Templates().discriminator
    assert filled(template, "What is {answer}?", "{question}") == (
        "What is {answer}?\nProposed answer: {question}\nIs the proposed answer correct?"
    )
    assert filled("{x} {question} {}", "q") == "{x} q {}"


@pytest.mark.parametrize(
    "fields",
    [
        {"generator": "Answer:"},
        {"generator": "{question} {answer}"},
        {"generator_incorrect": "{question}{question}"},
        {"discriminator": "{question}"},
        {"answer": "{question}"},
        {"correct": ""},
        {"incorrect": "{answer}"},
        {"yes": " yes"},
    ],
)
def test_templates_that_cannot_work(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        Templates(**fields)
    assert refused.value.errors()[0]["loc"] == (next(iter(fields)),)


def test_nothing_merges() -> None:
    made = split([1, 2, 3], [[1, 2, 3, 4], [1, 2, 3]])
    assert (made.prompt, made.continuations) == ([1, 2, 3], [[4], []])


def test_one_merged_token_moves_the_border_for_all() -> None:
    made = split([1, 2, 3], [[1, 2, 3, 4], [1, 2, 9], [1, 2, 3, 5, 6]])
    assert (made.prompt, made.continuations) == ([1, 2], [[3, 4], [9], [3, 5, 6]])
