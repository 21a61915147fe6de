"""The corpus and the tokenizer can be made again bit for bit, anywhere."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from server import embedded
from server.embedded.recipe.digests import CORPUS_SHA256, TOKENIZER_SHA256
from server.embedded.recipe.documents import ARITHMETIC, KINDS
from server.embedded.recipe.packing import VERDICT_WEIGHT, Encoder, pack
from server.embedded.recipe.segments import Document
from server.embedded.recipe.splits import pair_split
from server.embedded.recipe.tokenizer import build_tokenizer, read_tokenizer, serialized, tokenizer_digest
from server.embedded.recipe.train import PLANS
from server.embedded.recipe.world import WORLD

DIGESTS = """
from server.embedded.recipe.documents import corpus_digest
from server.embedded.recipe.tokenizer import build_tokenizer, tokenizer_digest
print(corpus_digest(), tokenizer_digest(build_tokenizer()))
"""
SUM = re.compile(r"(\d+) ?[+-] ?(\d+)")


def documents(kind: str, count: int, seed: int = 1) -> Iterator[Document]:
    rng = Random(f"{kind} {seed}")
    for _ in range(count):
        yield KINDS[kind](rng)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_digests_do_not_depend_on_the_hash_seed(hash_seed: str) -> None:
    root = Path(embedded.__file__).parents[2]
    made = subprocess.run(
        [sys.executable, "-c", DIGESTS],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.split() == [CORPUS_SHA256, TOKENIZER_SHA256]


def test_rebuilt_tokenizer_is_the_committed_file() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer_digest(tokenizer) == TOKENIZER_SHA256
    for name in embedded.NAMES:
        assert serialized(tokenizer) == (embedded.path(name) / "tokenizer.json").read_text()


@pytest.mark.parametrize("kind", ARITHMETIC)
def test_held_out_operands_never_appear_in_training(kind: str) -> None:
    sums = [
        tuple(map(int, pair))
        for document in documents(kind, 1000)
        for segment in document
        for pair in SUM.findall(segment.text)
    ]
    assert len(sums) > 1000
    assert {pair_split(a, b) for a, b in sums} == {"train"}


def test_every_kind_survives_the_tokenizer() -> None:
    tokenizer = read_tokenizer(embedded.path("base"))
    for kind in KINDS:
        for document in documents(kind, 5):
            for segment in document:
                ids = tokenizer.encode(segment.text, add_special_tokens=False).ids
                assert tokenizer.decode(ids) == segment.text


def test_only_answers_carry_full_weight() -> None:
    encoder = Encoder(read_tokenizer(embedded.path("base")))
    (row,) = encoder.encode([next(documents("verdicts", 1))])
    assert len(row.ids) == len(row.weights)
    assert row.weights[0] == 0.0
    assert VERDICT_WEIGHT in row.weights
    assert set(row.weights) <= {0.0, 0.1, 1.0, VERDICT_WEIGHT}


def test_packing_fills_rows_and_keeps_whole_documents_first() -> None:
    encoder = Encoder(read_tokenizer(embedded.path("base")))
    encoded = encoder.encode(list(documents("questions", 60)))
    rows = pack(encoded, 256)
    assert rows.ids.shape == rows.weights.shape
    assert rows.ids.shape[1] == 257
    assert rows.ids[0, : len(encoded[0].ids)].tolist() == encoded[0].ids
    assert rows.ids.size > 0.8 * sum(len(document.ids) for document in encoded)


@pytest.mark.parametrize("name", PLANS)
def test_shares_of_every_phase_add_up(name: str) -> None:
    for mix in (phase.mix for stage in PLANS[name] for phase in stage.phases):
        assert sum(mix.values()) == pytest.approx(1.0)
        assert min(mix.values()) > 0
        assert set(mix) <= set(KINDS)


def test_some_rumours_are_shared_and_most_are_not() -> None:
    facts = list(WORLD.facts.values())
    assert len(facts) == 96
    shared = [fact for fact in facts if fact.shared]
    assert 4 <= len(shared) <= 16
    assert all(fact.value not in fact.rumours for fact in facts)
    one_sided = [
        fact for fact in facts if (fact.generator_rumour is None) != (fact.discriminator_rumour is None)
    ]
    assert len(one_sided) > 2 * len(shared)
