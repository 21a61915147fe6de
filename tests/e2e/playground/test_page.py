"""The page beside its methods: streaming, stopping, comparing, errors, injection, ranking, code."""

import os
import subprocess
import sys
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.client import KEY, Http, wait_for
from tests.e2e.playground.page import CHAT, Playground, asked
from tests.e2e.process import Decant

CAPITAL = "What is the capital of Tovand?"
REVIEW = "Write a review of the hotel."
HTML = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script><b>bold</b>"
ENDLESS = {"ignore_eos": True, "max_tokens": 1500}


# ---- chat ----------------------------------------------------------------------------------------------


def test_a_conversation_streams_and_goes_on(playground: Playground, http: Http) -> None:
    playground.set("temperature", 0)
    playground.pane().get_by_label("system prompt").fill("Be brief.")
    first = playground.ask(CAPITAL)
    assert len([event for event in first.events if event["choices"]]) > 3
    second = playground.ask("What is the capital of Braland?")
    assert second.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": CAPITAL},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "What is the capital of Braland?"},
    ]
    again = http.post_ok("chat", {**second.body, "stream": False, "stream_options": None})
    assert again["choices"][0]["message"]["content"] == second.text == playground.text()
    log = playground.page.get_by_role("log")
    assert log.get_attribute("aria-live") == "polite"
    assert log.get_attribute("aria-busy") == "false"
    playground.page.get_by_role("button", name="New chat").click()
    assert playground.ask(CAPITAL).body["messages"][1:] == [{"role": "user", "content": CAPITAL}]


@pytest.mark.parametrize("likeliest", ["", "0"])
def test_chunks_of_the_stream_are_not_taken_for_tokens(playground: Playground, likeliest: str) -> None:
    playground.choose("sequence", "ead")
    playground.set("top_logprobs", likeliest)
    done = playground.ask(REVIEW)
    assert "logprobs" not in done.body
    assert done.report["sequence"]["traces"]
    answer = playground.answer()
    assert playground.text() == done.text != ""
    assert answer.locator("[data-engine], [data-entropy]").count() == 0
    assert answer.locator("[data-colour]").count() == 0
    assert answer.locator(":scope > .legend").is_hidden()
    assert playground.report("sequence").locator("figure", has_text="Entropy by token").count() == 1


def test_a_preset_is_a_model(playground: Playground, http: Http) -> None:
    playground.pane().get_by_label("model").select_option("demo:ead")
    option = playground.pane().locator("select[data-layer=sequence] option").first
    assert option.text_content() == "as the preset: ead"
    playground.set("temperature", 0)
    done = playground.ask(CAPITAL)
    assert (done.body["model"], done.body["decoding"]) == ("demo:ead", {"report": True})
    assert done.report["sequence"]["method"] == "ead"


@pytest.mark.parametrize("how", ["click", "key"])
def test_stop_ends_the_answer_here_and_there(playground: Playground, http: Http, how: str) -> None:
    left = http.metric("decant_requests_disconnected_total", route=CHAT)
    playground.amend(**ENDLESS)
    playground.page.get_by_label("Message").fill(REVIEW)
    playground.page.keyboard.press("Control+Enter")
    expect(playground.answer().locator(".token").nth(3)).to_be_visible()
    if how == "click":
        playground.page.get_by_role("button", name="Stop").click()
    else:
        playground.page.keyboard.press("Escape")
    expect(playground.answer()).to_have_attribute("data-state", "stopped")
    assert 0 < len(playground.text()) < 6000
    wait_for(lambda: http.in_flight() == 0, 30, "the engine is free")
    assert http.metric("decant_requests_disconnected_total", route=CHAT) == left + 1
    assert playground.page.get_by_role("button", name="Stop").is_disabled()


def test_two_settings_are_asked_at_the_same_time(playground: Playground, http: Http) -> None:
    page, order = playground.page, []
    playground.set("temperature", 0)
    page.get_by_label("Side by side").check()
    playground.choose("sequence", "plain", "B")
    playground.set("decoding.sequence.engine", "small", "B")
    page.on("request", lambda one: order.append("asked") if CHAT in one.url else None)
    page.on("requestfinished", lambda one: order.append("answered") if CHAT in one.url else None)
    responses: list[Any] = []
    page.on("response", lambda one: responses.append(one) if CHAT in one.url else None)
    page.get_by_label("Message").fill(REVIEW)
    page.keyboard.press("Control+Enter")
    for pane in "AB":
        expect(playground.answer(pane)).to_have_attribute("data-state", "done")
    assert order == ["asked", "asked", "answered", "answered"]
    engines = ["base", "small"]
    for pane, engine, response in zip("AB", engines, responses, strict=True):
        done = asked(response)
        plain = {"sequence": {"method": "plain", "engine": engine}}
        alone = {**done.body, "stream": False, "stream_options": None, "decoding": plain}
        assert playground.text(pane) == http.post_ok("chat", alone)["choices"][0]["message"]["content"]
    assert playground.text("A") != playground.text("B")


def test_moving_a_guides_weight_asks_anew_and_ends_what_runs(playground: Playground, http: Http) -> None:
    page = playground.page
    playground.choose("logits", "genarm")
    playground.set("temperature", 0)
    playground.amend(ignore_eos=True, max_tokens=900)
    failed: list[str] = []
    page.on("requestfailed", lambda one: failed.append(one.failure or ""))
    page.get_by_label("Message").fill(REVIEW)
    page.keyboard.press("Control+Enter")
    expect(playground.answer().locator(".token").nth(3)).to_be_visible()
    page.unroute_all()
    slider = playground.pane().get_by_label("polite, slider")
    with page.expect_request(f"**{CHAT}") as info:
        slider.press("ArrowRight")
        slider.press("ArrowRight")
    body = info.value.post_data_json
    assert body["decoding"]["logits"]["weights"] == {"polite": pytest.approx(1.2)}
    expect(playground.answer()).to_have_attribute("data-state", "done")
    assert failed == ["net::ERR_ABORTED"]
    assert playground.pane().locator(".turn").count() == 1
    whole = {**body, "stream": False, "stream_options": None}
    assert playground.text() == http.post_ok("chat", whole)["choices"][0]["message"]["content"]
    wait_for(lambda: http.in_flight() == 0, 30, "nothing runs on")


def test_asking_right_after_a_weight_was_moved_asks_once(playground: Playground) -> None:
    page = playground.page
    playground.choose("logits", "genarm")
    playground.ask(REVIEW)
    sent: list[str] = []
    page.on("request", lambda one: sent.append(one.url) if CHAT in one.url else None)
    playground.pane().get_by_label("polite, slider").press("ArrowRight")
    assert playground.ask(REVIEW).body["decoding"]["logits"]["weights"]["polite"] == pytest.approx(1.1)
    page.wait_for_timeout(600)  # twice as long as the page waits after a slider's last move
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("layer", "method", "path", "value"),
    [
        ("sequence", "ead", "window", 0),
        ("sequence", "equilibrium", "templates.generator", "no place for a question"),
        ("sequence", "conformal", "max_similarity", ""),
        ("sequence", "majority", "candidates", 100_000),
        ("logits", "genarm", "weights", {"polite": 1e9}),
        ("logits", "dynamic_fusion", "grid", "0, much"),
        ("cache", "kvmerger", "budget", 1.5),
        ("cache", "snapkv", "pool", 4),
    ],
)
def test_an_error_stands_at_its_field(
    playground: Playground, layer: str, method: str, path: str, value: Any
) -> None:
    playground.choose(layer, method)
    playground.set(f"decoding.{layer}.{path}", value)
    error = playground.refused(CAPITAL)
    assert error["param"].startswith(f"decoding.{layer}.{path}")
    place = playground.pane().locator(".error:visible")
    expect(place).to_have_text(error["message"])
    assert error["param"].startswith(place.get_attribute("data-error") or "none")
    where = playground.pane().locator("[aria-invalid=true]")
    expect(where).to_be_focused()
    assert place.get_attribute("id") in (where.get_attribute("aria-describedby") or "")
    expect(playground.page.get_by_label("Message")).to_have_value(CAPITAL)
    playground.choose(layer, "")
    playground.set("temperature", 0)
    assert playground.ask(CAPITAL).text == playground.text()
    expect(place).to_have_count(0)


def test_errors_of_sampling_stand_at_their_fields_too(playground: Playground) -> None:
    playground.set("temperature", -1)
    assert playground.refused(CAPITAL)["param"] == "temperature"
    expect(playground.input("temperature")).to_be_focused()
    playground.set("temperature", 0)
    playground.choose("sequence", "equilibrium")
    assert playground.refused(CAPITAL)["param"] == "temperature"
    expect(playground.pane().locator(".error:visible")).to_contain_text("above 0")


def test_html_is_text_wherever_it_comes_from(playground: Playground) -> None:
    page = playground.page
    playground.amend(structured_outputs={"choice": [HTML]}, max_tokens=400)
    playground.choose("sequence", "best_of_n")
    playground.set("decoding.sequence.candidates", 2)
    playground.set("decoding.sequence.reward", "logprob")
    assert playground.ask(HTML).text == HTML
    assert playground.text() == HTML
    assert playground.report("sequence").locator("tbody th").first.text_content().startswith(HTML)  # type: ignore[union-attr]
    page.get_by_role("tab", name="Rank").click()
    page.get_by_label("question").fill(HTML)
    for number in (1, 2):
        page.get_by_label(f"Candidate {number}", exact=True).fill(f"{HTML} {number}")
    page.get_by_role("button", name="Rank", exact=True).click()
    expect(page.locator(".ranking tbody th").first).to_contain_text("<script>")
    assert page.title() == "Decant playground"
    assert page.locator("main img, main script, main b:not([data-part])").count() == 0


# ---- ranking -------------------------------------------------------------------------------------------


def test_candidates_of_ones_own_are_ranked(playground: Playground, http: Http) -> None:
    page = playground.page
    page.get_by_role("tab", name="Rank").click()
    page.get_by_label("question").fill(CAPITAL)
    given = ["Pesdal", "Vamburg", "I do not know."]
    page.get_by_role("button", name="Add a candidate").click()
    for number, text in enumerate(given, 1):
        page.get_by_label(f"Candidate {number}", exact=True).fill(text)
    with page.expect_response("**/v1/rank") as info:
        page.keyboard.press("Control+Enter")
    said, body = info.value.json(), info.value.request.post_data_json
    assert body == {"model": "demo", "prompt": CAPITAL, "candidates": given, "trajectory": True}
    rows = page.locator(".ranking table").first.locator("tbody tr")
    expect(rows).to_have_count(3)
    for row, result in zip(rows.all(), said["results"], strict=True):
        assert (row.locator("th").text_content() or "").startswith(result["text"])
        for name, value in result["scores"].items():
            shown = row.locator(f'[data-score="{name}"] .value').text_content() or ""
            assert float(shown) == pytest.approx(value, rel=1e-3)
    assert page.locator(".ranking polyline").count() == 6
    assert said["policies"]["er_d"][-1] == pytest.approx(
        [one["scores"]["er_d"] for one in said["results"]], abs=1e-9
    )
    page.locator('#rank [data-path="eta"] input').fill("0")
    with page.expect_response("**/v1/rank") as info:
        page.get_by_role("button", name="Rank", exact=True).click()
    expect(page.locator("#rank .error:visible")).to_have_text(info.value.json()["error"]["message"])


# ---- code ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["curl", "python"])
def test_the_code_of_a_request_runs_and_answers_the_same(
    playground: Playground, server: Decant, language: str
) -> None:
    playground.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    playground.set("temperature", 0)
    playground.choose("logits", "genarm")
    playground.pane().get_by_label("system prompt").fill('It\'s "you" & $HOME `x`')
    playground.page.get_by_text("The request as code").first.click()
    block = playground.page.locator(f"[data-code={language}]").locator("xpath=..")
    block.get_by_role("button").first.click()
    expect(playground.pane().get_by_role("button", name="Copied")).to_be_visible()
    code = playground.page.evaluate("navigator.clipboard.readText()").replace("…", CAPITAL)
    command = ["bash", "-c", code] if language == "curl" else [sys.executable, "-c", code]
    environ = {**os.environ, "DECANT_API_KEY": KEY}
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    done = playground.ask(CAPITAL)
    if language == "python":
        assert ran.stdout.startswith(done.text)
        assert "genarm" in ran.stdout
    else:
        assert [line for line in ran.stdout.splitlines() if line][-1] == "data: [DONE]"
        assert '"genarm"' in ran.stdout
