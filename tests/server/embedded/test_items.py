"""Development and test items are apart from each other and, where promised, from training."""

import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from server import embedded
from server.embedded.recipe import facts, talk
from server.embedded.recipe.documents import KINDS
from server.embedded.recipe.items import ITEM_KINDS, HeldOut, items
from server.embedded.recipe.splits import options_split, pair_split

GRADED = [kind for kind in ITEM_KINDS if kind not in ("review", "story")]
COUNT = {"direct": 40}
SUM = re.compile(r"(\d+) [+-] (\d+)")


@pytest.mark.parametrize("kind", GRADED)
def test_development_and_test_prompts_are_disjoint(kind: str) -> None:
    n = COUNT.get(kind, 100)
    dev = {item.prompt for item in items(kind, "dev", n)}
    test = {item.prompt for item in items(kind, "test", n)}
    assert len(dev) == len(test) == n
    assert not dev & test


@pytest.mark.parametrize("kind", GRADED)
def test_gold_answers_are_right_and_others_are_not(kind: str) -> None:
    drawn = items(kind, "dev", 20)
    assert all(item.is_right(item.gold) for item in drawn)
    assert not any(item.is_right("") or item.is_right("I like 1000 tables.") for item in drawn)


def test_items_are_the_same_every_time_and_more_items_begin_with_fewer() -> None:
    assert items("choice", "test", 20) == items("choice", "test", 50)[:20]


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize("kind", ["sum", "direct", "problem_1", "problem_2"])
def test_operands_belong_to_the_split(kind: str, split: HeldOut) -> None:
    for item in items(kind, split, 30):
        stated = [(int(a), int(b)) for a, b in SUM.findall(item.gold + " " + item.prompt)]
        steps = [pair for pair in stated if pair_split(*pair) != "train" or max(pair) >= 20]
        assert steps
        assert {pair_split(*pair) for pair in steps} == {split}


@pytest.mark.parametrize("split", ["dev", "test"])
def test_option_sets_belong_to_the_split(split: HeldOut) -> None:
    for item in items("choice", split, 100):
        key = re.sub(r"What is the (\w+) of (\w+)\?", r"\2 \1", item.question)
        assert options_split(key, list(item.options)) == split
        assert len(set(item.options)) == 4
        assert item.answer in item.options
        for rumour in (item.generator_rumour, item.discriminator_rumour):
            assert rumour is None or rumour in item.options


def test_held_out_phrasings_and_names_are_not_in_training() -> None:
    train = facts.PHRASINGS["train"]
    assert not set(train) & set(facts.PHRASINGS["dev"] + facts.PHRASINGS["test"])
    assert not set(facts.PHRASINGS["dev"]) & set(facts.PHRASINGS["test"])
    assert not set(talk.OUTSIDE_NAMES["train"]) & set(talk.OUTSIDE_NAMES["dev"] + talk.OUTSIDE_NAMES["test"])
    held_out = items("fact", "dev", 150) + items("fact", "test", 150)
    prompts = {item.prompt for item in held_out}
    rng = Random(3)
    told = {segment.text for _ in range(3000) for segment in KINDS["questions"](rng) + KINDS["cued"](rng)}
    assert not prompts & told


@pytest.mark.parametrize("tokens", [256, 1000])
@pytest.mark.parametrize("kind", ["code", "word"])
def test_notes_are_in_the_text_at_the_length_asked_for(kind: str, tokens: int) -> None:
    from server.embedded.recipe.tokenizer import read_tokenizer

    tokenizer = read_tokenizer(embedded.path("base"))
    for item in items(kind, "test", 10, tokens):
        assert item.prompt.count(f" for {item.question.split()[-1][:-1]} is {item.answer}.") == 1
        assert abs(len(tokenizer.encode(item.prompt).ids) - tokens) < 0.1 * tokens


def test_unknown_kinds_and_too_many_items_are_refused() -> None:
    with pytest.raises(ValueError, match="choose one of fact, choice"):
        items("riddle", "dev", 1)
    with pytest.raises(ValueError, match="choose dev or test"):
        items("fact", "train", 1)
    with pytest.raises(ValueError, match="the world has only"):
        items("fact", "dev", 500)
    with pytest.raises(ValueError, match="no single right answer"):
        items("review", "dev", 1)[0].is_right("We loved it.")


def test_items_need_no_torch() -> None:
    code = """
import sys
import server.embedded
from server.embedded.recipe.items import items
items("choice", "dev", 3)
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(embedded.__file__).parents[2])
