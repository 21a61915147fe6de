"""A tiny model, its oracle, and the engines that the modules here share."""

import pytest

from tests.decoders.cache.engines import Engine
from tests.decoders.cache.reference import Oracle
from tests.decoders.logits.models import LLAMA, make, shape


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(tmp_path_factory.mktemp("cache-model") / "base", 0, LLAMA, shape(128, 3, 4, 2, 32))


@pytest.fixture(scope="session")
def oracle(path: str) -> Oracle:
    return Oracle(path)


@pytest.fixture(scope="session")
def plain(path: str) -> Engine:
    """vLLM's own."""
    return Engine(path, methods=())


@pytest.fixture(scope="session")
def roomy(path: str) -> Engine:
    return Engine(path)
