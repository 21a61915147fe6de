"""What the page shows when the server, or what stands before it, breaks off or answers something else."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from threading import Event, Thread

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.client import Http, wait_for
from tests.e2e.playground.page import CHAT, Playground
from tests.e2e.process import Decant

REVIEW = "Write a review of the hotel."
LOST = ("net::ERR_INCOMPLETE_CHUNKED_ENCODING", "status of 502")  # what Chromium itself says of it


@contextmanager
def breaking_off(server: Decant, lines: int, seen: Event) -> Iterator[str]:
    """A proxy that passes on so many lines of the server's answer, and is gone when they were seen."""

    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name: self.headers[name] for name in ("Authorization", "Content-Type")}
            url = server.url + self.path
            with httpx.stream("POST", url, content=body, headers=headers, timeout=60) as reply:
                self.send_response(reply.status_code)
                self.send_header("Content-Type", reply.headers["Content-Type"])
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for line in islice(reply.iter_lines(), lines):
                    chunk = f"{line}\n".encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                assert seen.wait(60)
            self.close_connection = True  # and no chunk has said that it was the last

        def log_message(self, *_: object) -> None:
            """Not into the tests' output."""

    door = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    Thread(target=door.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{door.server_port}"
    finally:
        door.shutdown()
        door.server_close()


@pytest.fixture
def page(playground: Playground) -> Iterator[Page]:
    """The page, which may say that a resource was lost."""
    yield playground.page
    playground.complaints[:] = [one for one in playground.complaints if not any(lost in one for lost in LOST)]


def told(page: Page, message: str, asked: str = REVIEW) -> None:
    """The failure is shown, nothing runs on, and the question can be sent again."""
    expect(page.locator("#chat .alert")).to_have_text(message)
    expect(page.get_by_label("Message")).to_have_value(asked)
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false")
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    assert page.locator(".answer[data-state=writing]").count() == 0


@pytest.mark.parametrize("lines", [0, 12])
def test_a_stream_that_breaks_off_is_a_failed_answer(
    playground: Playground, page: Page, server: Decant, http: Http, lines: int
) -> None:
    seen = Event()
    with breaking_off(server, lines, seen) as door:
        page.route(f"**{CHAT}", lambda route: route.continue_(url=f"{door}{CHAT}"))
        page.get_by_label("Message").fill(REVIEW)
        page.keyboard.press("Control+Enter")
        if lines:
            expect(playground.answer().locator(".token").first).to_be_visible()
        seen.set()
        told(page, "The answer broke off (network error).")
    if lines:
        expect(playground.answer()).to_have_attribute("data-state", "failed")
        assert playground.text()
    else:
        assert playground.pane().locator(".turn").count() == 0
    page.unroute_all()
    wait_for(lambda: http.in_flight() == 0, 30, "the abandoned request has ended")
    playground.set("temperature", 0)
    assert playground.ask(REVIEW).text == playground.text()
    expect(page.locator("#chat .alert")).to_be_hidden()


@pytest.mark.parametrize("event", ["{", "null", "1 2"])
def test_an_event_that_is_none_is_a_failed_answer(page: Page, event: str) -> None:
    stream = {"content_type": "text/event-stream", "body": f"data: {event}\n\n"}
    page.route(f"**{CHAT}", lambda route: route.fulfill(status=200, **stream))
    page.get_by_label("Message").fill(REVIEW)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#chat .alert")).to_contain_text("The answer broke off (")
    told(page, page.locator("#chat .alert").text_content() or "")


@pytest.mark.parametrize("body", ["null", "[]", '"no"', '{"error": null}', '{"error": "no"}', "<p>no</p>"])
def test_an_error_in_other_words_than_the_apis_is_shown_by_its_status(page: Page, body: str) -> None:
    page.route("**/v1/**", lambda route: route.fulfill(status=502, body=body))
    page.get_by_label("Message").fill(REVIEW)
    page.keyboard.press("Control+Enter")
    told(page, "The server answered with status 502.")
    page.get_by_role("tab", name="Rank").click()
    page.get_by_role("button", name="Rank", exact=True).click()
    expect(page.locator("#rank .alert")).to_have_text("The server answered with status 502.")


@pytest.mark.parametrize("body", ["<p>welcome</p>", "null", "17", '{"data": '])
def test_an_answer_that_is_no_json_object_is_said_to_be_none(page: Page, body: str) -> None:
    page.route("**/v1/**", lambda route: route.fulfill(status=200, body=body))
    page.get_by_role("tab", name="Rank").click()
    page.get_by_role("button", name="Rank", exact=True).click()
    expect(page.locator("#rank .alert")).to_contain_text("The server's answer could not be read (")
    page.reload()
    expect(page.locator("html[data-ready=false]")).to_be_attached()
    expect(page.locator("#status")).to_contain_text("The server's answer could not be read (")
