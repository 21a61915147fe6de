"""The playground as the tests use it: what is chosen, asked and shown."""

import json
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import ConsoleMessage, Locator, Page, Response, Route, expect

CHAT = "/v1/chat/completions"
SECONDS = 60  # only a page that hangs takes so long; the first request compiles
REFUSED = "Failed to load resource: the server responded with a status of 4"


@dataclass
class Asked:
    """A request that the page sent, and what the server streamed."""

    body: dict[str, Any]
    events: list[dict[str, Any]]

    @property
    def text(self) -> str:
        choices = [choice for event in self.events for choice in event.get("choices", ())]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def report(self) -> dict[str, Any]:
        (found,) = [event["decoding"] for event in self.events if event.get("decoding")]
        return dict(found)


def asked(response: Response) -> Asked:
    """What a response that has come to its end held."""
    lines = [line.removeprefix("data: ") for line in response.text().splitlines() if line]
    assert lines[-1] == "[DONE]", lines[-1]
    return Asked(response.request.post_data_json, [json.loads(line) for line in lines[:-1]])


class Playground:
    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._heard)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(REFUSED):
            self.complaints.append(message.text)

    def open(self, key: str | None = None) -> None:
        self.page.goto(self.url)
        if key is not None:
            self.give_key(key)
        self.page.wait_for_selector("html[data-ready=true]", state="attached")

    def give_key(self, key: str) -> None:
        self.page.wait_for_selector("html[data-ready]", state="attached")
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_label("API key").press("Tab")

    def pane(self, name: str = "A") -> Locator:
        return self.page.locator(f"[data-pane={name}]")

    def choose(self, layer: str, method: str, pane: str = "A") -> None:
        self.pane(pane).locator(f"select[data-layer={layer}]").select_option(method)

    def input(self, path: str, pane: str = "A") -> Locator:
        """The input of a field; the number where a slider stands beside it."""
        field = self.pane(pane).locator(f'[data-path="{path}"]')
        return field.locator("input:not([type=range]), select, textarea").first

    def set(self, path: str, value: Any, pane: str = "A") -> None:
        """Fill a field as a user would: by what kind of input it is."""
        where = self.input(path, pane)
        for details in where.locator("xpath=ancestor::details").all():
            if details.get_attribute("open") is None:
                details.locator("summary").first.click()
        kind = where.evaluate("(input) => input.type")
        if kind == "checkbox" and isinstance(value, bool):
            where.set_checked(value)
        elif kind == "checkbox":  # one box for each name
            for name in value:
                self.pane(pane).locator(f'[data-path="{path}"]').get_by_label(name, exact=True).check()
        elif kind == "select-one":
            where.select_option(label=str(value))
        elif isinstance(value, dict):
            for name, number in value.items():
                self.weight(path, name, pane).fill(str(number))
        else:
            where.fill(str(value))

    def weight(self, path: str, name: str, pane: str = "A") -> Locator:
        return self.pane(pane).locator(f'[data-path="{path}"]').get_by_label(name, exact=True)

    def ask(self, text: str, pane: str = "A") -> Asked:
        """Ask with Ctrl+Enter, and wait until the answer is shown whole."""
        self.page.get_by_label("Message").fill(text)
        with self.page.expect_response(f"**{CHAT}") as info:
            self.page.keyboard.press("Control+Enter")
        assert info.value.status == 200, info.value.text()
        expect(self.answer(pane)).to_have_attribute("data-state", "done", timeout=SECONDS * 1000)
        return asked(info.value)

    def refused(self, text: str) -> dict[str, Any]:
        """Ask what the server refuses: its error."""
        self.page.get_by_label("Message").fill(text)
        with self.page.expect_response(f"**{CHAT}") as info:
            self.page.keyboard.press("Control+Enter")
        error: dict[str, Any] = info.value.json()["error"]
        return error

    def answer(self, pane: str = "A") -> Locator:
        return self.pane(pane).locator(".answer").last

    def text(self, pane: str = "A") -> str:
        return self.answer(pane).locator(".tokens").text_content() or ""

    def amend(self, **fields: Any) -> None:
        """Send these fields too, which the page has no inputs for; the server answers as ever."""

        def changed(route: Route) -> None:
            route.continue_(post_data=json.dumps({**route.request.post_data_json, **fields}))

        self.page.route(f"**{CHAT}", changed)

    def report(self, layer: str, pane: str = "A") -> Locator:
        return self.answer(pane).locator(f"[data-report={layer}]")

    def fact(self, layer: str, name: str) -> str:
        return self.report(layer).locator(f'[data-fact="{name}"]').text_content() or ""
