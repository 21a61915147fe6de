"""Entropy-adaptive decoding over HTTP: exact at both ends and between, streamed, counted, refused."""

import math
from functools import partial
from typing import Any

import pytest

from server import embedded
from tests.decoders.sequence.reference import Reference
from tests.e2e.client import PROMPT, Http, text_of, together, token_ids

LENGTH = 40
SWITCHY: dict[str, Any] = {"threshold": 1.0, "window": 2, "dwell": 1}
PROMPTS = (
    PROMPT,
    "Write a review of the hotel.",
    "The colour of Braland is",
    "Tell me about the food in the",
)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(str(embedded.path("small")), str(embedded.path("base")))


def body(parameters: dict[str, Any] | None, prompt: Any = PROMPT, **more: Any) -> dict[str, Any]:
    decoding: dict[str, Any] = {"report": True}
    if parameters is not None:
        decoding["sequence"] = {"method": "ead", **parameters}
    return {
        "model": "demo",
        "prompt": prompt,
        "temperature": 0,
        "max_tokens": LENGTH,
        "ignore_eos": True,
        "return_token_ids": True,
        "decoding": decoding,
        **more,
    }


def tokens(http: Http, given: dict[str, Any]) -> list[int]:
    ids: list[int] = http.post_ok("text", given)["choices"][0]["token_ids"]
    return ids


@pytest.mark.parametrize("switch", ["next", "now"])
def test_thresholds_beyond_every_entropy_are_the_models_alone(http: Http, switch: str) -> None:
    ceiling = math.log2(1216)
    for engine, rule in (("small", {"threshold": ceiling}), ("base", {"threshold": -0.5, "start": "large"})):
        for prompt in PROMPTS:
            plain = body(None, prompt)
            plain["decoding"] = {"sequence": {"method": "plain", "engine": engine}}
            assert tokens(http, body({**rule, "switch": switch}, prompt)) == tokens(http, plain)


def test_answers_are_the_references_alone_and_together(http: Http, reference: Reference) -> None:
    rules = [{**SWITCHY, "switch": "now"}, {"threshold": 0.7, "window": 5, "dwell": 3}, {"threshold": 1.2}]
    cases = [(token_ids(http, prompt), rule) for prompt in PROMPTS for rule in rules]
    calls = [partial(http.post_ok, "text", body(rule, ids)) for ids, rule in cases]
    switches = 0
    for answers in (together(calls), [call() for call in calls]):
        for (ids, rule), answer in zip(cases, answers, strict=True):
            expected = reference.run(ids, LENGTH, **rule)
            got = answer["choices"][0]["token_ids"]
            assert got[: expected.decided] == expected.tokens[: expected.decided]
            if not expected.tied:
                assert answer["decoding"]["sequence"]["switches"] == expected.switches
                switches += expected.switches
    assert switches > 50


def test_a_stream_is_the_whole_answer(http: Http) -> None:
    whole = http.post_ok("text", body(SWITCHY))
    events = http.stream("text", body(SWITCHY, stream_options={"include_usage": True}))
    texts = [choice["text"] for event in events for choice in event["choices"]]
    assert "".join(texts) == whole["choices"][0]["text"]
    assert len([text for text in texts if text]) > LENGTH // 4
    assert events[-1]["usage"]["completion_tokens"] == LENGTH
    assert events[-1]["decoding"]["sequence"]["tokens"] == whole["decoding"]["sequence"]["tokens"]


def test_the_preset_and_chat(http: Http) -> None:
    message = [{"role": "user", "content": "Write a review of the hotel."}]
    given = {"messages": message, "temperature": 0, "max_tokens": LENGTH}
    rule = {"method": "ead", "threshold": 0.6, "window": 1, "dwell": 1, "switch": "now"}
    preset = http.post_ok("chat", {"model": "demo:ead", **given, "decoding": {"report": True}})
    named = http.post_ok("chat", {"model": "demo", **given, "decoding": {"sequence": rule}})
    assert preset["choices"][0]["message"]["content"] == named["choices"][0]["message"]["content"]
    assert preset["decoding"]["sequence"]["method"] == "ead"
    assert sum(preset["decoding"]["sequence"]["tokens"].values()) == preset["usage"]["completion_tokens"]


def test_what_was_done_is_counted(http: Http) -> None:
    def counts() -> list[float]:
        return [
            http.metric("decant_switches_total", method="ead"),
            http.metric("decant_recomputed_tokens_total", method="ead"),
            *(http.metric("decant_tokens_total", method="ead", engine=name) for name in ("small", "base")),
        ]

    before = counts()
    done = http.post_ok("text", body({**SWITCHY, "trace": True}))["decoding"]["sequence"]
    moved = [after - start for after, start in zip(counts(), before, strict=True)]
    assert moved == [
        done["switches"],
        done["recomputed_tokens"],
        done["tokens"]["small"],
        done["tokens"]["base"],
    ]
    (trace,) = done["traces"]
    assert len(trace["entropies"]) == LENGTH
    assert len(trace["segments"]) == done["switches"] + 1


def test_the_prompts_own_tokens_are_counted_once(http: Http) -> None:
    usage = http.post_ok("text", body(SWITCHY))["usage"]
    assert usage["prompt_tokens"] == len(token_ids(http, PROMPT)) + 1  # the token that begins a text
    assert usage["completion_tokens"] == LENGTH


def test_echo_comes_before_the_answer(http: Http) -> None:
    plain = http.post_ok("text", body(SWITCHY))["choices"][0]["text"]
    assert (
        http.post_ok("text", body(SWITCHY, echo=True, return_token_ids=False))["choices"][0]["text"]
        == PROMPT + plain
    )


def test_guides_and_switching_are_refused_where_one_engine_lacks_the_guide(http: Http) -> None:
    given = body(SWITCHY)
    given["decoding"]["logits"] = {"method": "genarm", "weights": {"polite": 1.0}}
    refused = http.post("text", given)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "decoding.logits.weights"


@pytest.mark.parametrize(
    ("parameters", "more", "param"),
    [
        ({"threshold": "high"}, {}, "decoding.sequence.threshold"),
        ({"threshold": math.inf}, {}, None),
        ({"window": 0}, {}, "decoding.sequence.window"),
        ({"window": 65}, {}, "decoding.sequence.window"),
        ({"window": 2.5}, {}, "decoding.sequence.window"),
        ({"dwell": 0}, {}, "decoding.sequence.dwell"),
        ({"switch": "later"}, {}, "decoding.sequence.switch"),
        ({"start": "base"}, {}, "decoding.sequence.start"),
        ({"small": "tiny"}, {}, "decoding.sequence.small"),
        ({"large": "huge"}, {}, "decoding.sequence.large"),
        ({"small": "base", "large": "base"}, {}, "decoding.sequence.small"),
        ({"tau": 1.0}, {}, "decoding.sequence.tau"),
        ({}, {"structured_outputs": {"regex": "[ab]+"}}, "structured_outputs"),
        ({}, {"response_format": {"type": "json_object"}}, "structured_outputs"),
        ({}, {"prompt_logprobs": 1}, "prompt_logprobs"),
        ({}, {"stop_token_ids": [0]}, "stop_token_ids"),
        ({}, {"use_beam_search": True, "n": 2, "ignore_eos": False}, "use_beam_search"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_cannot_be_is_refused_by_name(
    http: Http, parameters: dict[str, Any], more: dict[str, Any], param: str | None, streamed: bool
) -> None:
    response = http.post("text", {**body(parameters, **more), "stream": streamed})
    assert response.status_code == 400, response.text[:500]
    if param is not None:
        assert response.json()["error"]["param"] == param
    assert tokens(http, body(SWITCHY))


def test_the_methods_list_says_what_it_takes(http: Http) -> None:
    listed = {one["method"]: one for one in http.get("/v1/decoding/methods").json()["layers"]["sequence"]}
    assert listed["ead"]["offered"] is True
    assert "threshold" in listed["ead"]["schema"]["properties"]
    assert listed["ead"]["paper"] == "https://arxiv.org/abs/2502.06833"


def test_text_is_the_tokens_text(http: Http) -> None:
    answer = http.post_ok("text", body(SWITCHY))["choices"][0]
    assert text_of(http, answer["token_ids"]) == answer["text"]
