"""Every method of every layer, clicked through: what is sent, answered and drawn is what the API says."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Locator

from decoders.registry import LAYERS, methods
from tests.e2e.client import Http
from tests.e2e.playground.page import Asked, Playground

CAPITAL = "What is the capital of Tovand?"
REVIEW = "Write a review of the hotel."
LONG = "Note: the code for otter is 417. The hotel was grand. Ana lost a red lamp. The park was awful. " * 20
# What tells apart two runs of the same request: times, and what the prefix cache held.
OWN = {"merge_ms", "cached_tokens", "recomputed_tokens", "scored_tokens"}


@dataclass
class Case:
    """A method's form: what is set in it, by path below the layer, and what the layer is then sent as."""

    sets: dict[str, Any]
    sent: dict[str, Any]
    prompt: str = CAPITAL
    temperature: float = 1.0
    drawn: list[str] = field(default_factory=list)


VERDICT = {"type": "verdict"}
CASES = {
    ("sequence", "plain"): Case({"engine": "small"}, {"engine": "small"}),
    ("sequence", "ead"): Case(
        {"threshold": 0.7, "window": 2, "dwell": 1, "switch": "now"},
        {"threshold": 0.7, "window": 2, "dwell": 1, "switch": "now", "trace": True},
        REVIEW,
        drawn=["Entropy by token"],
    ),
    ("sequence", "auto"): Case(
        {"quality": 0.9, "ead": True, "ead.threshold": 0.5, "ead_quality": 0.95},
        {"quality": 0.9, "ead": {"method": "ead", "threshold": 0.5}, "ead_quality": 0.95},
    ),
    ("sequence", "equilibrium"): Case(
        {"candidates": 6, "ranking": "er_g", "templates.correct": " yes, it is"},
        {
            "candidates": 6,
            "ranking": "er_g",
            "templates": {"correct": " yes, it is"},
            "trajectory": True,
        },
        drawn=["discriminator", "generator"],
    ),
    ("sequence", "best_of_n"): Case(
        {"candidates": 4, "reward": "guide", "reward.guide": "polite"},
        {"candidates": 4, "reward": {"type": "guide", "guide": "polite"}},
        REVIEW,
    ),
    ("sequence", "majority"): Case(
        {"candidates": 5, "extract": "regex", "extract.pattern": r"is (\w+)\.", "early": False},
        {"candidates": 5, "extract": {"type": "regex", "pattern": r"is (\w+)\."}, "early": False},
    ),
    ("sequence", "mbr"): Case({"candidates": 5, "utility": "exact"}, {"candidates": 5, "utility": "exact"}),
    ("sequence", "residual_ebm"): Case(
        {"candidates": 4, "reward": "verdict", "energy_temperature": 0.5},
        {"candidates": 4, "reward": VERDICT, "energy_temperature": 0.5},
    ),
    ("sequence", "conformal"): Case(
        {"candidates": 6, "max_similarity": 0.9, "min_quality": 0.1, "stop": 1.5, "set_score": "sum"},
        {"candidates": 6, "max_similarity": 0.9, "min_quality": 0.1, "stop": 1.5, "set_score": "sum"},
    ),
    ("logits", "genarm"): Case(
        {"weights": {"polite": 1.5, "brief": -0.5}, "entropy_gate": 0.1},
        {"weights": {"polite": 1.5, "brief": -0.5}, "entropy_gate": 0.1},
        REVIEW,
    ),
    ("logits", "linear"): Case(
        {"weights": {"polite": 0.5}, "alpha": 0.1, "logprobs": "base"},
        {"weights": {"polite": 0.5}, "alpha": 0.1, "logprobs": "base"},
        REVIEW,
    ),
    ("logits", "dynamic_fusion"): Case(
        {"experts": ["polite"], "small": "brief", "grid": "0, 0.5, 1"},
        {"experts": ["polite"], "small": "brief", "grid": [0, 0.5, 1]},
        REVIEW,
    ),
    ("logits", "inverse_value"): Case(
        {"values": ["polite", "brief"], "weight": 0.3},
        {"values": ["polite", "brief"], "weight": 0.3},
        REVIEW,
    ),
    ("cache", "kvmerger"): Case(
        {
            "budget": 0.4,
            "sigma": "number",
            "sigma.number": 5,
            "decode": True,
            "decode.trigger": 64,
            "decode.keep": 8,
        },
        {"budget": 0.4, "sigma": 5, "decode": {"trigger": 64, "keep": 8}},
        LONG,
    ),
    ("cache", "snapkv"): Case({"budget": 0.3, "pool": 3}, {"budget": 0.3, "pool": 3}, LONG),
    ("cache", "streaming"): Case({"sinks": 8, "recent": 32}, {"sinks": 8, "recent": 32}, LONG),
}
# It wants an engine that speculates, which this server has not: test_drafts.py.
ELSEWHERE = {("sequence", "speculative")}


def test_every_method_there_is_is_tried() -> None:
    assert CASES.keys() | ELSEWHERE == {(layer, name) for layer in LAYERS for name in methods(layer)}


def test_what_is_not_offered_is_shown_with_the_reason(playground: Playground, http: Http) -> None:
    listed = http.get("/v1/decoding/methods").json()["layers"]
    for layer in LAYERS:
        node = playground.pane().locator(f"section[data-layer={layer}]")
        options = {one.get_attribute("value"): one for one in node.locator("select option").all()}
        assert [name for name in options if name] == sorted(
            [one["method"] for one in listed[layer]],
            key=lambda name: not next(one["offered"] for one in listed[layer] if one["method"] == name),
        )
        refused = [one for one in listed[layer] if not one["offered"]]
        assert [one["method"] for one in refused] == [n for n, o in options.items() if o.is_disabled()]
        for one in refused:
            node.locator(".refused summary").click()
            assert node.get_by_text(one["reason"]).is_visible()


@pytest.mark.parametrize(("layer", "method"), CASES)
def test_a_method_is_asked_for_answered_and_shown(
    playground: Playground, http: Http, layer: str, method: str
) -> None:
    case = CASES[layer, method]
    playground.choose(layer, method)
    playground.set("temperature", case.temperature)
    playground.set("seed", 11)
    playground.set("max_tokens", 48)
    for path, value in case.sets.items():
        playground.set(f"decoding.{layer}.{path}", value)
    done = playground.ask(case.prompt)
    assert done.body["decoding"] == {layer: {"method": method, **case.sent}, "report": True}
    assert done.body["messages"] == [{"role": "user", "content": case.prompt}]
    assert (done.body["temperature"], done.body["seed"], done.body["max_tokens"]) == (
        case.temperature,
        11,
        48,
    )
    assert playground.text() == done.text != ""
    again = http.post_ok("chat", {**done.body, "stream": False, "stream_options": None})
    if method != "majority":  # which of the equally likely samples ends first is a matter of time
        assert again["choices"][0]["message"]["content"] == done.text
        # Samples that can change nothing any more are ended where they are.
        own = OWN | {"tokens"} if method == "conformal" else OWN
        assert same(again["decoding"], done.report, own)
    shown(playground, done)
    titles = playground.answer().locator("figcaption").all_text_contents()
    assert all(any(part in title for title in titles) for part in case.drawn)
    assert len(titles) == len(case.drawn)


def same(one: Any, other: Any, own: set[str]) -> bool:
    """Whether two runs say the same, but for what is each one's own; scores to float32's rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k], own) for k in one.keys() - own)
    if isinstance(one, list):
        return len(one) == len(other) and all(same(a, b, own) for a, b in zip(one, other, strict=True))
    return bool(one == (pytest.approx(other, abs=2e-3) if isinstance(one, float) else other))


def shown(playground: Playground, done: Asked) -> None:
    """Every part of the report stands on the page with its own numbers."""
    for layer, said in done.report.items():
        node = playground.report(layer)
        assert node.locator(".method").text_content() == said["method"]
        for name, value in said.items():
            if isinstance(value, bool | int | float | str) and name not in ("method", "warning"):
                agrees(playground.fact(layer, name), value)
        if "candidates" in said and isinstance(said["candidates"], list):
            candidates_are_shown(node, said["candidates"])
        if "policies" in said:
            lines_are_drawn(node, said["policies"], len(said["candidates"]))
        if "samples" in said:
            rows = node.locator("table").first.locator("tbody tr")
            assert rows.locator("td").first.all_text_contents()[0] in ("kept", "rejected")
            found = rows.locator("[data-quality] .value").all_text_contents()
            assert [float(one) for one in found] == pytest.approx(
                [one["quality"] for one in said["samples"]], rel=1e-3
            )
        if "kept_slots" in said:
            agrees(part(node, "kept"), said["kept_slots"])
            agrees(part(node, "freed"), said["prompt_tokens"] - said["kept_slots"])
        if "guided" in said:
            agrees(part(node, "guided"), said["guided"])
        if "traces" in said:
            tokens_are_traced(playground, said)


def agrees(text: str, value: Any) -> None:
    if isinstance(value, bool):
        assert text == str(value).lower()
    elif isinstance(value, str):
        assert text == value
    else:
        assert float(text) == pytest.approx(value, rel=1e-3)


def part(node: Locator, name: str) -> str:
    return node.locator(f'[data-part="{name}"]').text_content() or ""


def candidates_are_shown(node: Locator, candidates: list[dict[str, Any]]) -> None:
    rows = node.locator("table", has_text="Candidates").locator("tbody tr").all()
    assert len(rows) == len(candidates)
    for row, candidate in zip(rows, candidates, strict=True):
        assert (row.locator("th").text_content() or "").startswith(candidate["text"])
        for name, value in candidate["scores"].items():
            agrees(row.locator(f'[data-score="{name}"] .value').text_content() or "", value)
            width = row.locator(f'[data-score="{name}"] .fill').evaluate(
                "(bar) => bar.getBoundingClientRect().width"
            )
            track = row.locator(f'[data-score="{name}"] .track').evaluate(
                "(bar) => bar.getBoundingClientRect().width"
            )
            if name in ("sc", "d", "er_g", "er_d", "weight", "quality"):
                assert width / track == pytest.approx(value, abs=0.02)


def lines_are_drawn(node: Locator, policies: dict[str, Any], candidates: int) -> None:
    for title, name in (("discriminator", "er_d"), ("generator", "er_g")):
        lines = node.locator("figure", has_text=title).locator("polyline").all()
        assert len(lines) == candidates
        for y, line in enumerate(lines):
            points = [tuple(map(float, p.split(","))) for p in (line.get_attribute("points") or "").split()]
            assert len(points) == len(policies["iterations"])
            assert [x for x, _ in points] == sorted(x for x, _ in points)
            # From 0 at the bottom to 1 at the top, 150 units above.
            heights = [(160 - height) / 150 for _, height in points]
            assert heights == pytest.approx([row[y] for row in policies[name]], abs=1e-3)


def tokens_are_traced(playground: Playground, said: dict[str, Any]) -> None:
    (trace,) = said["traces"]
    expected = [one["engine"] for one in trace["segments"] for _ in range(one["tokens"])]
    tokens = playground.answer().locator(".token")
    engines = tokens.evaluate_all("(all) => all.map((one) => one.dataset.engine ?? null)")
    entropies = tokens.evaluate_all("(all) => all.map((one) => one.dataset.entropy ?? null)")
    kept = len(trace["entropies"])
    # The end of the answer has a token without text, which may not be streamed.
    assert len(engines) in (kept, kept - 1)
    assert engines == expected[: len(engines)]
    assert [float(one) for one in entropies] == pytest.approx(trace["entropies"][: len(engines)])
    for engine, count in said["tokens"].items():
        agrees(part(playground.report("sequence"), engine), count)
    playground.answer().get_by_role("button", name="by entropy").click()
    for token, entropy in list(zip(tokens.all(), trace["entropies"], strict=False))[:8]:
        level = sum(entropy >= edge for edge in (0.25, 0.75, 1.5, 3))
        assert f"level-{level}" in (token.get_attribute("class") or "").split()
