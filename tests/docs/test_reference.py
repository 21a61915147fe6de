import re

from decoders import registry
from deploy.docs.__main__ import BLOCK, DOCS, ROOT, expected, stale
from deploy.docs.reference import openapi
from server.cli import USAGE
from server.config import LimitSettings, ServeSettings


def test_what_is_made_from_the_code_is_current() -> None:
    assert [str(path.relative_to(ROOT)) for path in stale()] == [], "run 'make reference'"


def test_every_method_has_a_page_with_its_parameters() -> None:
    for cls in registry.METHODS:
        name = registry.name(cls)
        page = (DOCS / "methods" / cls.layer / f"{name}.md").read_text(encoding="utf-8")
        found = {match[2]: match[0] for match in BLOCK.finditer(page)}
        for field in cls.model_fields:
            assert f"| `{field}` |" in found[f"parameters {name}"], (name, field)
        for heading in ("# " + name, "## Parameters", "## When", "## Measured"):
            assert heading in page, (name, heading)
        if cls.paper is not None:
            assert cls.paper in page, name


def test_reference_pages_hold_every_setting_command_and_route() -> None:
    pages = {path.stem: text for path, text in expected().items() if path.parent.name == "reference"}
    for field in [*ServeSettings.model_fields, *LimitSettings.model_fields]:
        assert f"| `{field}` |" in pages["configuration"], field
    for command in re.findall(r"^  ([a-z-]+) ", USAGE, re.MULTILINE):
        assert f"## decant {command}\n" in pages["commands"], command
    for path, operations in openapi()["paths"].items():
        for verb in operations:
            assert f"## {verb.upper()} {path}\n" in pages["http"], path
