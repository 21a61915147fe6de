"""Pictures of the playground for the documentation, taken of a running server with the embedded models.

.venv/bin/python -m deploy.studies.playground_images --url http://127.0.0.1:8000 --out docs/images
"""

import argparse
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, sync_playwright

DESK: ViewportSize = {"width": 1180, "height": 760}
PHONE: ViewportSize = {"width": 360, "height": 740}
CAPITAL = "What is the capital of Tovand?"
REVIEW = "Write a review of the hotel."
NOTES = (
    "Note: the code for otter is 417. "
    + "The hotel was grand. Ana lost a red lamp. The park was awful. " * 30
)
ROOM = 6  # pixels below what a picture ends with


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
    fill(page, "temperature", "0")
    ask(page, f"{NOTES}What is the code for otter?")
    page.locator(".answer").evaluate("(answer) => answer.scrollIntoView({ block: 'start' })")
    page.locator(".answer").evaluate("(answer) => answer.closest('.conversation').scrollBy(0, -10)")


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


@dataclass(frozen=True)
class Picture:
    """until: what it ends with, so that nothing is cut. layer: whose settings stand at the top, if any."""

    prepare: Callable[[Page], None]
    until: str
    layer: str | None = None
    viewport: ViewportSize = field(default_factory=DESK.copy)
    is_dark: bool = False


PICTURES = {
    "ead": Picture(ead, ".facts", "sequence"),
    "entropy": Picture(entropy, ".facts", "sequence", is_dark=True),
    "candidates": Picture(candidates, ".figure"),
    "cache": Picture(cache, ".conversation > :last-child", "cache"),
    "compare": Picture(compare, "[data-pane=B] .report", is_dark=True),
    "rank": Picture(rank, ".ranking .figure >> nth=1"),
    "phone": Picture(ead, ".figure", viewport=PHONE),
}


def settle(page: Page, picture: Picture) -> None:
    """Scroll the settings to their layer, and make the window as high as what it ends with wants it."""
    if picture.layer is not None:
        layer = page.locator(f"[data-pane=A] .layer[data-layer={picture.layer}]")
        layer.evaluate(
            """(layer) => {
              const settings = layer.closest(".settings");
              const title = settings.querySelector("summary").getBoundingClientRect();
              settings.scrollTop += layer.getBoundingClientRect().top - title.bottom;
            }"""
        )
    hidden = page.locator(picture.until).first.evaluate(
        """(last) => {
          const composer = document.querySelector(".composer").getBoundingClientRect();
          return last.getBoundingClientRect().bottom - (composer.height ? composer.top : innerHeight);
        }"""
    )
    width, height = picture.viewport["width"], picture.viewport["height"]
    page.set_viewport_size({"width": width, "height": height + max(0, round(hidden) + ROOM)})


def opened(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready=true]", state="attached")
    return page


def take(browser: Browser, url: str, out: Path) -> None:
    with browser.new_context(viewport=DESK) as context:
        ead(opened(context, url))  # the first requests compile: no picture shows their times
    for name, picture in PICTURES.items():
        scheme: Literal["dark", "light"] = "dark" if picture.is_dark else "light"
        with browser.new_context(viewport=picture.viewport, color_scheme=scheme) as context:
            page = opened(context, url)
            picture.prepare(page)
            settle(page, picture)
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
