"""Speculation over HTTP: a base that speculates, in two ways, beside the same base that does not."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from server.models import EMBEDDED_ARGUMENTS
from tests.e2e.client import PROMPT, Http, together
from tests.e2e.process import Decant, serving

DRAFTS = {"model": "embedded:small", "draft_sample_method": "greedy"}
ENGINES = {
    "plain": {"model": "embedded:base"},
    "fast": {
        "model": "embedded:base",
        "speculative": {"method": "draft_model", "num_speculative_tokens": 3, "governor": False, **DRAFTS},
    },
    "governed": {"model": "embedded:base", "speculative": {"method": "adaptive_draft", **DRAFTS}},
}
PROMPTS = [PROMPT, "Write a review of the hotel.", "What is 7 plus 5?", "The river", "Question: Who"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    folder: Path = tmp_path_factory.mktemp("speculative")
    config = {"engines": ENGINES, "engine_args": EMBEDDED_ARGUMENTS, "served_model_name": "demo"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with serving(folder / "log", "--config", str(folder / "config.yaml")) as server:
        yield server


@pytest.fixture(scope="module")
def speculating(running: Decant) -> Iterator[Http]:
    with httpx.Client(base_url=running.url, timeout=120) as session:
        yield Http(session)


def body(sequence: dict[str, Any], prompt: str = PROMPT, **more: Any) -> dict[str, Any]:
    decoding = {"sequence": sequence, "report": True}
    fields = {"model": "demo", "prompt": prompt, "temperature": 0, "max_tokens": 48, "ignore_eos": True}
    return {**fields, "decoding": decoding, **more}


def on(engine: str) -> dict[str, Any]:
    return {"method": "plain" if engine == "plain" else "speculative", "engine": engine}


def text(http: Http, given: dict[str, Any]) -> str:
    return str(http.post_ok("text", given)["choices"][0]["text"])


@pytest.mark.parametrize("engine", ["fast", "governed"])
def test_greedy_answers_are_the_plain_ones(speculating: Http, engine: str) -> None:
    plain = [text(speculating, body(on("plain"), prompt)) for prompt in PROMPTS]
    assert len(set(plain)) == len(plain)
    assert [text(speculating, body(on(engine), prompt)) for prompt in PROMPTS] == plain
    asked = [partial(text, speculating, body(on(engine), prompt)) for prompt in PROMPTS]
    assert together(asked) == plain


@pytest.mark.parametrize(
    "penalties",
    [{"repetition_penalty": 1.3}, {"frequency_penalty": 1.5, "presence_penalty": -1.0}],
    ids=["repetition", "frequency and presence"],
)
@pytest.mark.parametrize("engine", ["fast", "governed"])
def test_penalties_beside_speculation_do_what_they_do_without(
    speculating: Http, engine: str, penalties: dict[str, float]
) -> None:
    plain = [text(speculating, body(on("plain"), prompt, **penalties)) for prompt in PROMPTS]
    assert plain != [text(speculating, body(on("plain"), prompt)) for prompt in PROMPTS]
    calls = [partial(text, speculating, body(on(engine), prompt, **penalties)) for prompt in PROMPTS]
    assert together(calls) == plain
    assert speculating.get("/health").status_code == 200


def test_the_report_counts_what_was_drafted_and_accepted(speculating: Http) -> None:
    answered = speculating.post_ok("text", body(on("fast")))
    layer = answered["decoding"]["sequence"]
    assert (layer["method"], layer["engine"]) == ("speculative", "fast")
    said = layer["speculative"]
    assert said["method"] == "draft_model"
    drafted, accepted = said["drafted_per_position"], said["accepted_per_position"]
    assert len(drafted) == len(accepted) == 3
    assert all(most >= some for most, some in zip(drafted, accepted, strict=True))
    assert accepted == sorted(accepted, reverse=True)
    assert said["drafted_tokens"] == sum(drafted) > 0
    assert said["accepted_tokens"] == sum(accepted) > 0
    tokens = answered["usage"]["completion_tokens"]
    # A step gives a token beside the accepted ones; the last one's may not all have fitted into max_tokens.
    assert said["steps"] <= tokens <= said["steps"] + said["accepted_tokens"] <= tokens + 3
    assert said["tokens_per_step"] == pytest.approx(tokens / said["steps"], abs=1e-3)
    assert said["tokens_per_step"] > 1.2
    assert "metrics" not in answered or not (answered["metrics"] or {}).get("speculative_decoding")


def test_plain_requests_are_drafted_for_as_well(speculating: Http) -> None:
    on_fast = speculating.post_ok("text", body({"method": "plain", "engine": "fast"}))
    assert on_fast["decoding"]["sequence"]["speculative"]["accepted_tokens"] > 0
    on_plain = speculating.post_ok("text", body(on("plain")))
    assert "speculative" not in on_plain["decoding"]["sequence"]
    unasked = speculating.post_ok("text", body({"method": "plain", "engine": "fast"}) | {"decoding": None})
    assert not unasked.get("metrics")
    assert unasked["choices"][0]["text"] == on_plain["choices"][0]["text"]


def test_streams_and_several_choices_report_too(speculating: Http) -> None:
    events = speculating.stream("text", body(on("fast"), stream_options={"include_usage": True}))
    assert events[-1]["decoding"]["sequence"]["speculative"]["accepted_tokens"] > 0
    answered = speculating.post_ok("text", body(on("fast"), n=3, temperature=1.0))
    said = answered["decoding"]["sequence"]["speculative"]
    assert said["steps"] + said["accepted_tokens"] >= answered["usage"]["completion_tokens"] == 3 * 48


def test_metrics_count_drafts_by_position_and_show_the_governor(speculating: Http) -> None:
    def accepted(position: int) -> float:
        name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
        return speculating.metric(name, decant_engine="fast", position=str(position))

    before = [accepted(position) for position in range(3)]
    said = speculating.post_ok("text", body(on("fast")))["decoding"]["sequence"]["speculative"]
    moved = [accepted(position) - start for position, start in enumerate(before)]
    assert moved == said["accepted_per_position"]
    for _ in range(4):
        speculating.post_ok("text", body(on("governed"), max_tokens=80))
    assert speculating.metric("decant_speculation_drafting", engine="fast") == 1
    steps = [
        speculating.metric("decant_speculation_steps_total", engine="governed", kind=kind)
        for kind in ("drafting", "plain", "trial")
    ]
    assert min(steps) > 0, "the governor tries both ways"
    assert speculating.metric("decant_speculation_switches_total", engine="governed") >= 0
    for way in ("drafting", "plain"):
        labels = {"engine": "governed", "rows": "1", "way": way}
        assert speculating.metric("decant_speculation_tokens_per_second", **labels) > 1
    assert 0 <= speculating.metric("decant_speculation_stop", engine="governed") <= 1
    assert speculating.metric("decant_speculation_tokens_per_step_count", engine="fast") > 0


def test_a_decision_is_logged_once(speculating: Http, running: Decant) -> None:
    speculating.get("/metrics")
    switches = speculating.metric("decant_speculation_switches_total", engine="governed")
    lines = [line for line in running.output().splitlines() if "engine governed: speculation" in line]
    assert len(lines) == switches
    assert all("tokens/s with drafts" in line for line in lines)


def test_the_method_is_offered_where_an_engine_speculates(speculating: Http) -> None:
    listed = speculating.get("/v1/decoding/methods").json()
    method = next(one for one in listed["layers"]["sequence"] if one["method"] == "speculative")
    assert (method["offered"], method["reason"]) == (True, None)
    drafting = {name: engine["speculative"] for name, engine in listed["engines"].items()}
    assert drafting == {"plain": None, "fast": "draft_model", "governed": "adaptive_draft"}


def test_left_out_the_engine_is_one_that_speculates(speculating: Http) -> None:
    layer = speculating.post_ok("text", body({"method": "speculative"}))["decoding"]["sequence"]
    assert layer["engine"] == "fast"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        (
            {"decoding": {"sequence": {"method": "speculative", "engine": "plain"}}},
            "decoding.sequence.engine",
        ),
        ({"decoding": {"sequence": {"method": "speculative", "k": 3}}}, "decoding.sequence.k"),
        ({"min_p": 0.1, "temperature": 1.0}, "min_p"),  # a greedy answer knows no min_p
        ({"logit_bias": {"300": 5}}, "logit_bias"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(speculating: Http, more: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        response = speculating.post("text", {**body(on("fast")), **more, "stream": stream})
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param, response.json()


def test_a_bias_goes_on_where_nothing_is_drafted(speculating: Http) -> None:
    assert text(speculating, body(on("plain"), logit_bias={"300": 100})) != text(
        speculating, body(on("plain"))
    )


def test_a_server_without_such_an_engine_says_why(http: Http) -> None:
    listed = http.get("/v1/decoding/methods").json()["layers"]["sequence"]
    method = next(one for one in listed if one["method"] == "speculative")
    assert not method["offered"]
    assert "speculative" in method["reason"]
    response = http.post("text", body({"method": "speculative"}))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "decoding.sequence.method"
