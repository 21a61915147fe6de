"""Models for the modules here."""

import pytest

from tests.decoders.speculative.models import make_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_models(tmp_path_factory.mktemp("speculative"))
