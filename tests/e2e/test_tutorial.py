"""The tutorial, block by block, and the README's examples, against the server of the other tests."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from unittest import mock

import pytest
import yaml

from deploy.docs.tutorial import PAGE, Block, Session, blocks, matches
from server.config import ServeSettings
from tests.e2e.client import KEY, Http
from tests.e2e.process import ROOT, Decant

TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = blocks(TEXT)
README = (ROOT / "README.md").read_text(encoding="utf-8")


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


def test_the_readmes_program_prints_what_its_comments_say(server: Decant) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    for shown, real in (("http://127.0.0.1:8000", server.url), ('"none"', repr(KEY))):
        assert shown in code
        code = code.replace(shown, real)
    output = io.StringIO()
    with redirect_stdout(output):
        exec(code, {})  # noqa: S102 - the README's own program
    printed = output.getvalue().splitlines()
    comments = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert len(comments) == len(printed) == 2
    for comment, text in zip(comments, printed, strict=True):
        assert matches(comment, text), text


def test_the_readmes_requests_are_answered_with_what_they_ask_for(http: Http) -> None:
    bodies = [
        json.loads(block) for block in re.findall(r"^```json\n(\{\"model\".*?)^```$", README, re.M | re.S)
    ]
    assert [next(iter(body["decoding"])) for body in bodies] == ["sequence", "logits", "cache"]
    for body in bodies:
        body["decoding"]["report"] = True
        report = http.post_ok("chat", body)["decoding"]
        for layer, asked in body["decoding"].items():
            assert layer == "report" or report[layer]["method"] == asked["method"]


def test_the_models_say_what_the_readme_shows(http: Http) -> None:
    (block,) = re.findall(r"What these models say:\n\n```\n(.*?)^```$", README, re.M | re.S)
    asked = [part for part in re.split(r"^(?=\S)", block, flags=re.M) if part]
    assert len(asked) >= 2
    for part in asked:
        question, answer = part.split("\n", 1)
        body = {"model": "demo", "temperature": 0, "messages": [{"role": "user", "content": question}]}
        said = http.post_ok("chat", body)["choices"][0]["message"]["content"]
        assert said == " ".join(answer.split())
