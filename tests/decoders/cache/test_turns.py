"""Prefix caching: turns of a conversation, and requests of other kinds with the same beginning."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.decoders.cache.engines import BLOCK, Ask, Engine, error, logprobs, prompt, tokens
from tests.decoders.logits.models import VOCABULARY

CLOSE = 1e-4
KINDS: list[Mapping[str, Any]] = [
    {"method": "kvmerger", "budget": 0.5},
    {"method": "kvmerger", "budget": 0.4, "peak": 0.6},
    {"method": "kvmerger", "budget": 0.4, "mass": True, "decode": {"trigger": 64, "keep": 16}},
    {"method": "streaming", "budget": 0.35},
]


@pytest.fixture(scope="module")
def caching(path: str) -> Engine:
    return Engine(path, enable_prefix_caching=True)


@pytest.mark.parametrize("kind", KINDS, ids=lambda one: "-".join(str(v) for v in one.values()))
def test_a_follow_up_is_what_it_is_without_the_turns_before(
    caching: Engine, roomy: Engine, kind: Mapping[str, Any]
) -> None:
    """It finds the blocks that its own compression will free, which hold what was never changed."""
    history = prompt(400, seed=len(str(kind)))
    for turn in range(3):
        ask = Ask(history, kind, {"max_tokens": 40})
        (output,), (alone,) = caching.run([ask]), roomy.run([ask])
        assert tokens(output) == tokens(alone)
        assert error(logprobs(output, VOCABULARY), logprobs(alone, VOCABULARY)) < CLOSE
        if turn:
            assert (output.num_cached_tokens or 0) >= BLOCK
            assert (output.num_cached_tokens or 0) % BLOCK == 0
        history = [*history, *tokens(output), *prompt(60, seed=turn)]


def test_plain_and_compressed_requests_share_what_is_unchanged(caching: Engine, roomy: Engine) -> None:
    words = prompt(600, seed=77)
    kinds = [KINDS[0], None, KINDS[1], None, KINDS[2], KINDS[0]]
    for kind in kinds:
        ask = Ask(words, kind)
        (output,), (alone,) = caching.run([ask]), roomy.run([ask])
        assert tokens(output) == tokens(alone)
        assert error(logprobs(output, VOCABULARY), logprobs(alone, VOCABULARY)) < CLOSE
    asks = [Ask(words, kind) for kind in kinds]
    for output, alone in zip(caching.run(asks), roomy.run(asks), strict=True):
        assert tokens(output) == tokens(alone)
    assert caching.used_blocks() == 0


def test_choices_share_their_prompt(caching: Engine, roomy: Engine) -> None:
    params = {"n": 4, "temperature": 1.0, "seed": 5}
    ask = Ask(prompt(500, seed=8), KINDS[0], params)
    (output,), (alone,) = caching.run([ask]), roomy.run([ask])
    answers = [list(choice.token_ids) for choice in output.outputs]
    assert answers == [list(choice.token_ids) for choice in alone.outputs]
    assert len({tuple(answer) for answer in answers}) > 1
