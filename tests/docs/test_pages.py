"""What README and pages show is right: requests are accepted by the types, links lead somewhere."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from decoders import registry
from decoders.request import DecodingRequest
from server.config import ServeSettings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
ABRIDGED = '"messages": [...]'


def fenced(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def values(text: str) -> list[Any]:
    """The JSON values in a block, one after the other."""
    text, found, position = text.replace(ABRIDGED, '"messages": []').strip(), [], 0
    while position < len(text):
        value, position = json.JSONDecoder().raw_decode(text, position)
        found.append(value)
        position += len(text[position:]) - len(text[position:].lstrip())
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_requests_shown_are_accepted(page: Path) -> None:
    if page.name == "adding-a-method.md":
        return  # asks for the page's own method: test_adding_a_method.py
    for block in fenced(page, "json"):
        for value in values(block):
            if "decoding" in value:
                DecodingRequest.model_validate(value["decoding"])


def test_every_method_is_shown_by_a_request_on_its_page() -> None:
    for cls in registry.METHODS:
        name = registry.name(cls)
        page = ROOT / "docs/methods" / cls.layer / f"{name}.md"
        shown = [value for block in fenced(page, "json") for value in values(block)]
        methods = [value["decoding"].get(cls.layer, {}).get("method") for value in shown]
        assert name in methods, name


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_configurations_shown_are_valid(page: Path) -> None:
    for block in fenced(page, "yaml"):
        ServeSettings(**yaml.safe_load(block))


def test_links_of_the_readme_lead_to_files() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    assert len(targets) > 40
    for target in targets:
        if target.startswith("examples/") and not (ROOT / "examples").is_dir():
            continue
        assert "://" in target or (ROOT / target).exists(), target


def test_the_readme_names_every_method() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for cls in registry.METHODS:
        assert f"[`{registry.name(cls)}`](docs/methods/{cls.layer}/" in text, cls
