"""Requests generated from the server's own OpenAPI document: a bounded part of what `make fuzz` sends."""

import json
from collections.abc import Iterator

import pytest
import schemathesis

from deploy.fuzz.__main__ import flags, golden, target_of
from deploy.fuzz.campaign import KINDS, Kind, Tally, Target, fuzz
from deploy.fuzz.narrow import narrowed
from tests.e2e.client import KEY
from tests.e2e.process import Decant, serving

EXAMPLES = {"valid fields": 12, "valid decoding methods": 12, "invalid": 8}
SEED = 20


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    """A server of its own, with limits that let every request end soon."""
    with serving(tmp_path_factory.mktemp("fuzz") / "log", *flags(KEY)) as running:
        yield running
        assert running.process.poll() is None, f"the server is gone:\n{running.tail()}"


@pytest.fixture(scope="module")
def target(fuzzed: Decant) -> Target:
    return target_of(fuzzed.url, KEY)


def test_the_document_is_valid_openapi(target: Target) -> None:
    schemathesis.openapi.from_dict(target.document).validate()
    schemathesis.openapi.from_dict(
        narrowed(target.document, target.models, target.engines, target.guides, decoding=True)
    ).validate()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_answers_are_what_the_document_says(target: Target, kind: Kind) -> None:
    before, tally = golden(target), Tally()
    fuzz(target, kind, EXAMPLES[kind.name], SEED, tally, coverage=False)
    found = [(f.operation, f.check, f.message, f.curl) for f in tally.findings.values()]
    assert tally.ok(), json.dumps([found, tally.errors], indent=1)[:8000]
    assert not [key for key in tally.answers if key[2] == 0], "requests without an answer"
    accepted, sent = tally.accepted(kind.name)
    if kind.valid:  # most get through to an engine, or this would test nothing but refusals
        assert accepted > sent // 3, dict(tally.answers)
        assert tally.answers[kind.name, "POST /v1/rank", 200] or kind.decoding, dict(tally.answers)
    else:
        assert sent >= EXAMPLES[kind.name]
    assert isinstance(before, list)
    assert golden(target) == before
