"""The tutorial, block by block, against the server of the other tests."""

from collections.abc import Iterator
from unittest import mock

import pytest
import yaml

from deploy.docs.tutorial import PAGE, Block, Session, blocks, matches
from server.config import ServeSettings
from tests.e2e.client import KEY
from tests.e2e.process import Decant

TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = blocks(TEXT)


@pytest.fixture(scope="module")
def session(server: Decant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """What the page has its reader export, for this server."""
    exported = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": KEY, "DECANT_API_KEY": KEY}
    with mock.patch.dict("os.environ", exported):
        yield Session(tmp_path_factory.mktemp("tutorial"))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line-{block.line}")
def test_the_block_prints_what_the_page_shows(session: Session, block: Block) -> None:
    printed = session.run(block)
    assert matches(block.output, printed), f"the page shows:\n{block.output}\nprinted:\n{printed}"


def test_every_method_has_its_place() -> None:
    from decoders import registry

    code = "\n".join(block.code for block in BLOCKS)
    for cls in registry.METHODS:
        name = registry.name(cls)
        assert f"methods/{cls.layer}/{name}.md" in TEXT, name
        assert f'"{name}"' in code, name


def test_every_block_shows_its_output() -> None:
    assert len(BLOCKS) >= 20
    assert [block.line for block in BLOCKS if not block.output] == []
    assert sum(block.output.strip() == "..." for block in BLOCKS) == 0


def test_the_configuration_shown_is_valid() -> None:
    (text,) = [part.split("```")[0] for part in TEXT.split("```yaml\n")[1:]]
    settings = ServeSettings(**yaml.safe_load(text))
    assert settings.engines["base"].speculative is not None


def test_an_output_that_differs_is_seen() -> None:
    assert matches("a ... c\n", "a b  \n c")
    assert not matches("a ... c", "a b d")
    assert not matches("17", "17\n18")
