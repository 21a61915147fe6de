"""The cache layer over HTTP: presets, reports, metrics, streams, and what is refused by name."""

from functools import partial
from typing import Any

import pytest

from tests.e2e.client import Http, together

LENGTH = 24
WORDS = "Note: the code for otter is 417. The hotel was grand. Ana lost a red lamp. The park was awful. " * 22


def body(cache: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    decoding: dict[str, Any] = {"report": True}
    if cache is not None:
        decoding["cache"] = {"method": "kvmerger", **cache}
    return {
        "model": "demo",
        "prompt": WORDS,
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


def test_the_preset_halves_the_prompts_cache(http: Http) -> None:
    given = body(None, model="demo:kv50")
    answer = http.post_ok("text", given)
    said, prompt = answer["decoding"]["cache"], answer["usage"]["prompt_tokens"]
    assert (said["method"], said["budget"]) == ("kvmerger", 0.5)
    assert said["prompt_tokens"] == prompt
    assert 0.4 * prompt <= said["kept_slots"] <= 0.5 * prompt + 32
    assert said["freed_blocks"] == (prompt - said["kept_slots"]) / 32
    assert said["compressions"] == 1
    assert said["merge_ms"] > 0
    assert "warning" not in said
    assert tokens(http, body({})) == answer["choices"][0]["token_ids"]


def test_a_budget_of_one_is_the_plain_answer(http: Http) -> None:
    plain = tokens(http, body(None, logprobs=5))
    full = http.post_ok("text", body({"budget": 1.0}))
    assert full["choices"][0]["token_ids"] == plain
    said = full["decoding"]["cache"]
    assert said["kept_slots"] == said["prompt_tokens"]
    assert said["freed_blocks"] == 0


def test_a_budget_that_frees_nothing_is_said(http: Http) -> None:
    said = http.post_ok("text", body({}, prompt="The capital of"))["decoding"]["cache"]
    assert said["freed_blocks"] == 0
    assert "frees nothing of a prompt of" in said["warning"]


def test_the_answer_is_compressed_too(http: Http) -> None:
    cache = {"budget": 0.4, "decode": {"trigger": 64, "keep": 16}}
    said = http.post_ok("text", body(cache, max_tokens=300))["decoding"]["cache"]
    assert said["compressions"] >= 4
    assert said["freed_blocks"] > (said["prompt_tokens"] - said["kept_slots"]) / 32
    assert said["decode"] == {"trigger": 64, "keep": 16}


def test_a_stream_says_the_same(http: Http) -> None:
    given = {**body({"budget": 0.3}), "return_token_ids": False}
    whole = http.post_ok("text", given)
    events = http.stream("text", {**given, "stream": True})
    text = "".join(event["choices"][0]["text"] for event in events if event.get("choices"))
    assert text == whole["choices"][0]["text"]
    (said,) = [event["decoding"]["cache"] for event in events if event.get("decoding")]
    assert said["freed_blocks"] == whole["decoding"]["cache"]["freed_blocks"]


def test_freed_blocks_and_merges_are_counted(http: Http) -> None:
    def counts() -> tuple[float, float]:
        return (
            http.metric("decant_kv_blocks_freed_total", engine="base"),
            http.metric("decant_kv_merge_seconds_count", engine="base"),
        )

    tokens(http, body({}))  # so that both are there
    before = counts()
    said = http.post_ok("text", body({}, n=2, temperature=1))["decoding"]["cache"]
    after = counts()
    assert after[0] - before[0] == said["freed_blocks"]
    assert after[1] - before[1] == said["compressions"] == 2


def test_all_kinds_together_are_as_alone(http: Http) -> None:
    kinds: list[dict[str, Any] | None] = [
        None,
        {},
        {"budget": 0.25, "mass": True},
        {"budget": 0.4, "peak": 0.6},
    ]
    asked = [body(kind, prompt=WORDS[20 * i :]) for i, kind in enumerate(kinds * 2)]
    alone = [tokens(http, one) for one in asked]
    assert together([partial(tokens, http, one) for one in asked]) == alone


def test_it_composes_with_guides(http: Http) -> None:
    given = body({})
    given["decoding"]["logits"] = {"method": "genarm", "weights": {"polite": 1.0}}
    both = http.post_ok("text", given)
    assert both["decoding"]["cache"]["freed_blocks"] > 0
    assert both["decoding"]["logits"]["guided"] == LENGTH


@pytest.mark.parametrize("method", ["majority", "equilibrium"])
def test_candidates_are_sampled_with_it_and_scored_on_the_whole_context(http: Http, method: str) -> None:
    given = body({"budget": 0.35}, temperature=1.0, seed=3, ignore_eos=False)
    given["decoding"]["sequence"] = {"method": method, "candidates": 4}
    before = http.metric("decant_kv_blocks_freed_total", engine="base")
    answer = http.post_ok("text", given)["decoding"]
    said = answer["cache"]
    blocks = (said["prompt_tokens"] - said["kept_slots"]) / 32
    assert blocks > 0
    assert 1 <= said["compressions"] <= 4  # a vote may be settled before the last sample's prompt is merged
    assert said["freed_blocks"] == said["compressions"] * blocks
    assert http.metric("decant_kv_blocks_freed_total", engine="base") - before == said["freed_blocks"]
    if method == "equilibrium":
        assert said["compressions"] == 4


@pytest.mark.parametrize(
    ("cache", "more", "param"),
    [
        ({"budget": 0}, {}, "decoding.cache.budget"),
        ({"budget": 1.5}, {}, "decoding.cache.budget"),
        ({"budget": "half"}, {}, "decoding.cache.budget"),
        ({"recent": -1}, {}, "decoding.cache.recent"),
        ({"sinks": 2000}, {}, "decoding.cache.sinks"),
        ({"heavy": 1.1}, {}, "decoding.cache.heavy"),
        ({"window": 0}, {}, "decoding.cache.window"),
        ({"min_prompt": 0}, {}, "decoding.cache.min_prompt"),
        ({"peak": 0}, {}, "decoding.cache.peak"),
        ({"mass": 2}, {}, "decoding.cache.mass"),
        ({"decode": {"trigger": 64}}, {}, "decoding.cache.decode.keep"),
        ({"decode": {"trigger": 64, "keep": 64}}, {}, "decoding.cache.decode"),
        ({"budget": 1.0, "decode": {"trigger": 64, "keep": 8}}, {}, "decoding.cache"),
        ({"size": 1}, {}, "decoding.cache.size"),
        ({"method": "snapkv", "pool": 4}, {}, "decoding.cache.pool"),
        ({"method": "streaming", "window": 4}, {}, "decoding.cache.window"),
        ({}, {"vllm_xargs": {"decant.cache": "x"}}, "vllm_xargs"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    http: Http, cache: dict[str, Any], more: dict[str, Any], param: str
) -> None:
    response = http.post("text", body(cache, **more))
    assert response.status_code == 400, response.text[:500]
    assert (response.json()["error"]["param"] or "").startswith(param)


def test_sigma_is_adaptive_or_a_positive_number(http: Http) -> None:
    assert tokens(http, body({"sigma": 5}))
    for sigma in ("wide", 0, -1):
        response = http.post("text", body({"sigma": sigma}))
        assert response.status_code == 400
        assert response.json()["error"]["param"].startswith("decoding.cache.sigma")


@pytest.mark.parametrize(
    "sequence", [{"method": "plain", "engine": "small"}, {"method": "ead"}], ids=["small", "ead"]
)
def test_an_engine_or_a_method_without_it_is_refused(http: Http, sequence: dict[str, Any]) -> None:
    given = body({})
    given["decoding"]["sequence"] = sequence
    response = http.post("text", given)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "decoding.cache.method"


def test_the_methods_list_says_what_it_takes(http: Http) -> None:
    listed = {one["method"]: one for one in http.get("/v1/decoding/methods").json()["layers"]["cache"]}
    assert set(listed) == {"kvmerger", "snapkv", "streaming"}
    assert all(one["offered"] for one in listed.values())
    assert listed["kvmerger"]["paper"] == "https://arxiv.org/abs/2407.08454"
