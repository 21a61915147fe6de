"""The playground of a server that speculates: which drafted tokens were accepted, by position."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser

from server.models import EMBEDDED_ARGUMENTS
from tests.e2e.playground.page import Playground
from tests.e2e.process import Decant, serving

POSITIONS = 3
SPECULATIVE = {
    "method": "draft_model",
    "model": "embedded:small",
    "num_speculative_tokens": POSITIONS,
    "governor": False,
}


@pytest.fixture(scope="module")
def speculating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    folder: Path = tmp_path_factory.mktemp("drafts")
    engines = {"base": {"model": "embedded:base", "speculative": SPECULATIVE}}
    config = {"engines": engines, "engine_args": EMBEDDED_ARGUMENTS, "served_model_name": "demo"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with serving(folder / "log", "--config", str(folder / "config.yaml")) as running:
        yield running


def test_accepted_drafts_are_shown_by_position(browser: Browser, speculating: Decant) -> None:
    with browser.new_context() as context:
        playground = Playground(context.new_page(), speculating.url)
        playground.open()
        playground.choose("sequence", "speculative")
        playground.set("temperature", 0)
        playground.set("max_tokens", 48)
        done = playground.ask("Write a review of the hotel.")
        assert done.body["decoding"] == {"sequence": {"method": "speculative"}, "report": True}
        assert playground.text() == done.text != ""
        said = done.report["sequence"]["speculative"]
        assert 0 < said["accepted_tokens"] < said["drafted_tokens"]
        node = playground.report("sequence")
        summary = node.locator("[data-drafts]").text_content() or ""
        assert summary.startswith(f"{said['accepted_tokens']} of {said['drafted_tokens']} drafted tokens")
        rows = node.locator("table", has_text="Accepted drafts").locator("tbody tr").all()
        expected = zip(said["accepted_per_position"], said["drafted_per_position"], strict=True)
        counts = [f"{accepted} of {drafted}" for accepted, drafted in expected]
        assert [row.locator(".value").text_content() for row in rows] == counts
        assert len(counts) == POSITIONS
        for row, accepted, drafted in zip(
            rows, said["accepted_per_position"], said["drafted_per_position"], strict=True
        ):
            fill, track = (
                row.locator(part).evaluate("(bar) => bar.getBoundingClientRect().width")
                for part in (".fill", ".track")
            )
            assert fill / track == pytest.approx(accepted / drafted, abs=0.02)
        assert playground.complaints == []
