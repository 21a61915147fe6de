"""A real browser: Chromium without a window, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.e2e.client import KEY
from tests.e2e.playground.page import Playground
from tests.e2e.process import Decant

NAMES = ("chromium", "chromium-browser", "google-chrome")
HOW = "no Chromium: 'apt-get install chromium', or put one on PATH"


@pytest.fixture(scope="module")  # while Playwright runs, no other test can run an event loop
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(HOW)
    # Chromium's sandbox needs user namespaces, and refuses to run as root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=flags)
        yield running
        running.close()


@pytest.fixture
def playground(browser: Browser, server: Decant) -> Iterator[Playground]:
    """The page of the shared server, with its key given; nothing may go wrong in it that no test expects."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = Playground(context.new_page(), server.url)
        page.open(KEY)
        yield page
        assert page.complaints == []
