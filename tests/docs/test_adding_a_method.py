"""The example method of the page on adding one: taken from the page as it stands, checked, and run."""

import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from decoders.method import Method
from decoders.registry import METHODS
from decoders.request import decoding_model
from server.engine import DecodingEngine

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/extend/adding-a-method.md").read_text(encoding="utf-8")
METHOD, TESTS = "decoders.sequence.shortest", "tests.decoders.sequence.test_shortest"


def shown(module: str) -> str:
    """The file that the page shows under its path."""
    path = re.escape(module.replace(".", "/"))
    found = re.search(rf"^`{path}\.py`:\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, module
    return found[1]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ModuleType]]:
    folder, made = tmp_path_factory.mktemp("example"), {}
    try:
        for name in (METHOD, TESTS):
            path = folder / f"{name.rsplit('.', 1)[1]}.py"
            path.write_text(shown(name), encoding="utf-8")
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            made[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(made[name])
        yield made
    finally:
        for name in made:
            del sys.modules[name]


def test_the_registry_takes_it_by_one_line(example: dict[str, ModuleType]) -> None:
    (line,) = re.findall(
        r"^from decoders\.sequence\.shortest import (\w+)$", PAGE.split("## 2.")[1], re.MULTILINE
    )
    cls = getattr(example[METHOD], line)
    assert issubclass(cls, Method)
    body = {"sequence": {"method": "shortest", "candidates": 4}}
    assert decoding_model([*METHODS, cls]).model_validate(body).sequence.at_least == 1


async def test_its_tests_pass(example: dict[str, ModuleType], engine: DecodingEngine) -> None:
    tests = [one for name, one in vars(example[TESTS]).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        if inspect.iscoroutinefunction(test):
            await test(engine)
        else:
            test()


@pytest.mark.parametrize("module", [METHOD, TESTS])
def test_it_keeps_the_rules_of_style(module: str) -> None:
    name = f"{module.replace('.', '/')}.py"
    for command in (
        ["check", "--stdin-filename", name, "-"],
        ["format", "--check", "--stdin-filename", name, "-"],
    ):
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ruff")), *command],
            input=shown(module),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
