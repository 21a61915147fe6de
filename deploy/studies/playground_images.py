"""Pictures of the playground for the documentation, taken of a running server with the embedded models.

.venv/bin/python -m deploy.studies.playground_images --url http://127.0.0.1:8000 --out docs/images
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

DESK: ViewportSize = {"width": 1180, "height": 760}
PHONE: ViewportSize = {"width": 360, "height": 740}
CAPITAL = "What is the capital of Tovand?"
REVIEW = "Write a review of the hotel."
NOTES = "Note: the code for otter is 417. The hotel was grand. Ana lost a red lamp. The park was awful. " * 20


def choose(page: Page, layer: str, method: str, pane: str = "A") -> None:
    page.locator(f"[data-pane={pane}] select[data-layer={layer}]").select_option(method)


def fill(page: Page, path: str, value: str) -> None:
    page.locator(f'[data-path="{path}"] input:not([type=range])').first.fill(value)


def ask(page: Page, text: str) -> None:
    """Ask, and wait until every pane has its answer."""
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Control+Enter")
    panes = page.locator(".pane[data-pane]").count()
    page.wait_for_function(
        "(count) => document.querySelectorAll('.answer[data-state=done]').length === count", arg=panes
    )
    page.evaluate("document.activeElement.blur()")


def ead(page: Page) -> None:
    choose(page, "sequence", "ead")
    for name, value in (("threshold", "0.6"), ("window", "1"), ("dwell", "1")):
        fill(page, f"decoding.sequence.{name}", value)
    fill(page, "seed", "4")
    ask(page, REVIEW)


def entropy(page: Page) -> None:
    ead(page)
    page.get_by_role("button", name="by entropy").click()


def candidates(page: Page) -> None:
    choose(page, "sequence", "equilibrium")
    fill(page, "temperature", "1.3")
    fill(page, "seed", "2")
    ask(page, CAPITAL)


def cache(page: Page) -> None:
    choose(page, "cache", "kvmerger")
    fill(page, "seed", "1")
    ask(page, NOTES)
    page.locator(".report").evaluate("(report) => report.scrollIntoView({ block: 'center' })")


def compare(page: Page) -> None:
    fill(page, "temperature", "0")
    page.get_by_label("Side by side").check()
    choose(page, "logits", "genarm", "B")
    for pane in "AB":
        page.locator(f"[data-pane={pane}] .settings > summary").click()
    ask(page, REVIEW)


def rank(page: Page) -> None:
    page.get_by_role("tab", name="Rank").click()
    page.get_by_label("question").fill(CAPITAL)
    page.get_by_role("button", name="Add a candidate").click()
    for number, text in enumerate(("Pesdal", "Vamburg", "Tunand"), 1):
        page.get_by_label(f"Candidate {number}", exact=True).fill(text)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".ranking table")
    page.evaluate("document.activeElement.blur()")


PICTURES: dict[str, tuple[Callable[[Page], None], ViewportSize, bool]] = {
    "ead": (ead, DESK, False),
    "entropy": (entropy, DESK, True),
    "candidates": (candidates, DESK, False),
    "cache": (cache, DESK, False),
    "compare": (compare, DESK, True),
    "rank": (rank, DESK, False),
    "phone": (ead, PHONE, False),
}


def take(browser: Browser, url: str, out: Path) -> None:
    for name, (prepare, viewport, is_dark) in PICTURES.items():
        scheme = "dark" if is_dark else "light"
        with browser.new_context(viewport=viewport, color_scheme=scheme) as context:  # type: ignore[arg-type]
            page = context.new_page()
            page.goto(url)
            page.wait_for_selector("html[data-ready=true]", state="attached")
            prepare(page)
            page.screenshot(path=out / f"playground-{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="a server without API keys")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        take(browser, given.url, given.out)


if __name__ == "__main__":
    main()
