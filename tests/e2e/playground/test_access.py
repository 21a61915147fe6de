"""Who may load the page and who can use it: keys, policy, accessibility, keyboard, themes, phones."""

import re
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from server.playground import assets
from tests.e2e.client import KEY
from tests.e2e.playground.page import Playground
from tests.e2e.process import Decant

CAPITAL = "What is the capital of Tovand?"
REVIEW = "Write a review of the hotel."


# ---- what is served ------------------------------------------------------------------------------------


def test_the_page_and_its_files_need_no_key_and_may_load_nothing_else(server: Decant) -> None:
    with httpx.Client(base_url=server.url) as stranger:
        for path, asset in assets().items():
            given = stranger.get(path)
            assert (given.status_code, given.content) == (200, asset.content)
            assert given.headers["content-type"] == asset.media_type
            assert given.headers["x-content-type-options"] == "nosniff"
            again = stranger.get(path, headers={"If-None-Match": given.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert stranger.head(path).headers["etag"] == given.headers["etag"]
            assert stranger.post(path).status_code == 405
        policy = stranger.get("/").headers["content-security-policy"].split("; ")
        own = {f"{kind}-src 'self'" for kind in ("script", "style", "connect")}
        assert {"default-src 'none'", *own} <= set(policy)
        assert not any("unsafe" in part or "*" in part or "http" in part for part in policy)
        for path in ("/playground/", "/playground/nothing.js", "/playground/../v1/models", "/v1/models"):
            assert stranger.get(path).status_code == 401


def test_nothing_is_written_into_the_page_as_markup() -> None:
    for path, asset in assets().items():
        for way in (b"innerHTML", b"outerHTML", b"insertAdjacentHTML", b"document.write", b"eval("):
            assert way not in asset.content, path
        assert b"https://" not in asset.content.replace(b"http://www.w3.org", b""), path


# ---- key -----------------------------------------------------------------------------------------------


def test_a_server_with_keys_asks_for_one_and_the_tab_keeps_it(browser: Browser, server: Decant) -> None:
    with browser.new_context() as context:
        page = Playground(context.new_page(), server.url)
        page.page.goto(server.url)
        expect(page.page.get_by_text("This server asks for an API key")).to_be_visible()
        expect(page.page.get_by_label("API key")).to_be_focused()
        page.give_key("wrong")
        expect(page.page.get_by_text("This server asks for an API key")).to_be_visible()
        page.give_key(KEY)
        page.page.wait_for_selector("html[data-ready=true]", state="attached")
        stored = "[JSON.stringify({...sessionStorage}), JSON.stringify({...localStorage}), document.cookie]"
        session, local, cookies = page.page.evaluate(stored)
        assert KEY in session
        assert KEY not in local + cookies
        page.page.reload()
        page.page.wait_for_selector("html[data-ready=true]", state="attached")
        page.page.get_by_text("The request as code").first.click()
        assert KEY not in page.page.content()
        other = context.new_page()
        other.goto(server.url)
        expect(other.get_by_text("This server asks for an API key")).to_be_visible()


# ---- people --------------------------------------------------------------------------------------------


def violations(page: Page) -> list[str]:
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
    found = Axe().run(page, options={"runOnly": rules})
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found.response["violations"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken(playground: Playground, scheme: Any) -> None:
    page = playground.page
    page.emulate_media(color_scheme=scheme)
    assert violations(page) == []
    playground.set("temperature", 0)
    playground.choose("sequence", "ead")
    playground.ask(REVIEW)
    for name in ("by engine", "by entropy", "by surprise"):
        playground.answer().get_by_role("button", name=name).click()
        assert violations(page) == []
    playground.choose("logits", "genarm")
    playground.choose("cache", "kvmerger")
    playground.set("decoding.cache.decode", True)
    playground.refused(CAPITAL)
    assert violations(page) == []
    page.get_by_role("tab", name="Rank").click()
    assert violations(page) == []


def test_the_theme_follows_the_system_until_it_is_chosen(playground: Playground) -> None:
    page = playground.page

    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    page.emulate_media(color_scheme="light")
    light = ground()
    page.emulate_media(color_scheme="dark")
    dark = ground()
    assert light != dark
    page.get_by_role("button", name="Theme: auto").click()
    assert ground() == light
    page.get_by_role("button", name="Theme: light").click()
    page.emulate_media(color_scheme="light")
    assert ground() == dark
    page.reload()
    assert ground() == dark


def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(playground: Playground) -> None:
    page = playground.page
    page.reload()
    page.wait_for_selector("html[data-ready=true]", state="attached")
    seen = []
    name = "(({ id, tagName, dataset }) => dataset.field ?? (/-\\d+$/.test(id) ? tagName : id || tagName))"
    for _ in range(14):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(f"{name}(document.activeElement)"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert seen[:9] == ["A", "tab-chat", "compare", "clear", "key", "theme", "SUMMARY", "model", "system"]
    page.locator("#tab-chat").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Rank")).to_be_focused()
    expect(page.locator("#rank")).to_be_visible()
    expect(page.locator("#chat")).to_be_hidden()


def test_tokens_can_be_looked_at_one_by_one_with_the_keyboard(playground: Playground) -> None:
    playground.choose("sequence", "ead")
    done = playground.ask(REVIEW)
    (trace,) = done.report["sequence"]["traces"]
    playground.answer().locator(".tokens").focus()
    for _ in range(3):
        playground.page.keyboard.press("ArrowRight")
    detail = playground.answer().locator(".token-detail").text_content() or ""
    assert detail.startswith("token 3:")
    shown = re.search(r"entropy (\S+) bits", detail)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(trace["entropies"][2], rel=1e-3)
    assert "likeliest:" in detail


def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, server: Decant) -> None:
    with browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True) as context:
        playground = Playground(context.new_page(), server.url)
        playground.open(KEY)
        page = playground.page

        def fits() -> bool:
            return bool(page.evaluate("document.documentElement.scrollWidth <= 360"))

        assert fits()
        for layer, method in (("sequence", "ead"), ("sequence", "equilibrium"), ("logits", "genarm")):
            page.evaluate("document.querySelector('.settings').open = true")
            playground.choose(layer, method)
            assert fits()
            playground.ask(CAPITAL)
            assert fits()
            assert violations(page) == []
        page.get_by_label("Side by side").check()
        assert fits()
        page.get_by_role("tab", name="Rank").click()
        assert fits()
        assert playground.complaints == []
