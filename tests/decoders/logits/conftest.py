"""Tiny models for the whole run, and the engines with guides that the modules here share."""

import pytest

from tests.decoders.logits.engines import Engine
from tests.decoders.logits.models import make_models
from tests.decoders.logits.reference import Oracle

GUIDES = ("polite", "brief", "terse", "wide")


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(make_models(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="session")
def roomy(oracle: Oracle) -> Engine:
    """Room for all requests."""
    return Engine(oracle, "base", GUIDES)


@pytest.fixture
def padded(oracle: Oracle) -> Engine:
    """A guide that has exactly the tokenizer's tokens, fewer than the base, and one that has more than it.

    For one test each: a step that fails leaves the engine unusable.
    """
    return Engine(oracle, "base", ("narrow", "wide", "terse"), max_num_seqs=4)


@pytest.fixture(scope="session")
def tight(oracle: Oracle) -> Engine:
    """Prompts are cut into pieces of at most 24 tokens, and 8 long requests do not fit into the cache."""
    return Engine(
        oracle,
        "base",
        ("polite", "brief", "terse"),
        max_num_batched_tokens=24,
        max_num_seqs=8,
        num_gpu_blocks_override=20,
    )


@pytest.fixture(scope="session")
def single(oracle: Oracle) -> Engine:
    """One request at a time."""
    return Engine(oracle, "base", ("polite",), max_num_seqs=1)


@pytest.fixture(scope="session")
def sliding_base(oracle: Oracle) -> Engine:
    return Engine(oracle, "sliding", ("polite",), max_num_batched_tokens=40)


@pytest.fixture(scope="session")
def sliding_guide(oracle: Oracle) -> Engine:
    return Engine(oracle, "base", ("sliding_guide", "polite"), max_num_batched_tokens=40)
