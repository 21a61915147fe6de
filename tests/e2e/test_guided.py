"""The logits layer over HTTP: guides by weight and by preset, beside plain requests."""

from functools import partial
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.client import Http, together

REVIEW = "Write a review of the hotel."
KIND = ("lovely", "thank", "helpful", "gladly", "kind")


def body(logits: dict[str, Any] | None = None, prompt: str = REVIEW, **more: Any) -> dict[str, Any]:
    decoding = {"report": True, **({"logits": logits} if logits else {})}
    messages = [{"role": "user", "content": prompt}]
    return {
        "model": "demo",
        "messages": messages,
        "temperature": 0,
        "max_tokens": 60,
        "decoding": decoding,
        **more,
    }


def answer(http: Http, given: dict[str, Any]) -> str:
    return str(http.post_ok("chat", given)["choices"][0]["message"]["content"])


def genarm(**weights: float) -> dict[str, Any]:
    return {"method": "genarm", "weights": weights}


def test_a_guide_changes_what_is_said(http: Http) -> None:
    plain, polite = answer(http, body()), answer(http, body(genarm(polite=1.0)))
    assert any(word in polite.lower() for word in KIND)
    assert not any(word in plain.lower() for word in KIND)


def test_a_preset_is_the_method_it_stands_for(http: Http) -> None:
    for preset, weights in (
        ("polite", {"polite": 1.0}),
        ("brief", {"brief": 1.0}),
        ("polite+brief", {"polite": 1.0, "brief": 1.0}),
    ):
        by_preset = answer(http, body(model=f"demo:{preset}"))
        assert by_preset == answer(http, body(genarm(**weights)))
    assert (
        len({answer(http, body(model=f"demo:{name}")) for name in ("polite", "brief", "polite+brief")}) == 3
    )


def test_weight_zero_is_plain(http: Http) -> None:
    assert answer(http, body(genarm(polite=0.0))) == answer(http, body())


def test_the_methods_agree_where_they_coincide(http: Http) -> None:
    guided = answer(http, body(genarm(polite=1.0)))
    assert answer(http, body({"method": "linear", "weights": {"polite": 1.0}})) == guided
    assert answer(http, body({"method": "inverse_value", "values": ["polite"]})) == guided


def test_the_report_says_what_was_done(http: Http) -> None:
    answered = http.post_ok("chat", body(genarm(polite=0.5)))
    layer = answered["decoding"]["logits"]
    assert layer["method"] == "genarm"
    assert layer["weights"] == {"polite": 0.5}
    assert layer["tokens"] == layer["guided"] == answered["usage"]["completion_tokens"]
    gated = http.post_ok("chat", body({**genarm(polite=0.5), "entropy_gate": 1.0}))["decoding"]["logits"]
    assert 0 < gated["guided"] < gated["tokens"]
    fusion = {"method": "dynamic_fusion", "experts": ["polite"], "small": "brief", "grid": [0.0, 0.5, 1.0]}
    layer = http.post_ok("chat", body(fusion))["decoding"]["logits"]
    assert len(layer["alphas"]["polite"]) == layer["tokens"]
    assert set(layer["alphas"]["polite"]) <= {0.0, 0.5, 1.0}


def test_the_report_is_of_all_prompts_and_of_what_was_delivered(http: Http) -> None:
    asked = {"model": "demo", "temperature": 0, "max_tokens": 12, "ignore_eos": True}
    prompts = ["Hello", "The hotel was", "A"]
    decoding = {"report": True, "logits": genarm(polite=1.0)}
    answered = http.post_ok("text", {**asked, "prompt": prompts, "decoding": decoding})
    layer = answered["decoding"]["logits"]
    assert layer["tokens"] == layer["guided"] == answered["usage"]["completion_tokens"] == 36
    fusion = {"method": "dynamic_fusion", "experts": ["polite"], "small": "brief"}
    whole = http.post_ok(
        "text", {**asked, "prompt": prompts, "decoding": {"report": True, "logits": fusion}}
    )["decoding"]["logits"]
    assert not {"alphas", "mean_alpha"} & whole.keys()
    for i, prompt in enumerate(prompts):
        alone = http.post_ok(
            "text", {**asked, "prompt": prompt, "decoding": {"report": True, "logits": fusion}}
        )
        one = whole["sequences"][i]
        assert (one["prompt"], one["choice"]) == (i, 0)
        assert one["alphas"] == alone["decoding"]["logits"]["alphas"]
    stopped = http.post_ok("chat", body(genarm(polite=1.0), stop=["lovely"]))
    assert stopped["choices"][0]["finish_reason"] == "stop"
    layer = stopped["decoding"]["logits"]
    assert layer["tokens"] == layer["guided"] == stopped["usage"]["completion_tokens"]
    nothing = http.post_ok("chat", body(genarm(polite=0.0)))
    layer = nothing["decoding"]["logits"]
    assert (layer["tokens"], layer["guided"]) == (nothing["usage"]["completion_tokens"], 0)


def test_a_gate_no_entropy_reaches_is_plain(http: Http) -> None:
    assert answer(http, body({**genarm(polite=1.0), "entropy_gate": 30.0})) == answer(http, body())


def test_streams_say_the_same(http: Http) -> None:
    given = body(model="demo:polite")
    events = http.stream("chat", given)
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert text == answer(http, given)
    assert events[-1]["decoding"]["logits"]["method"] == "genarm"


def test_logprobs_are_the_guided_ones_or_the_bases(client: OpenAI) -> None:
    def logprobs(**logits: Any) -> list[tuple[str, float]]:
        decoding = {"logits": {**genarm(polite=1.0), **logits}} if logits else {}
        answered = client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": REVIEW}],
            temperature=0,
            max_tokens=12,
            logprobs=True,
            top_logprobs=1,
            extra_body={"decoding": decoding},
        )
        content = answered.choices[0].logprobs
        assert content is not None
        assert content.content is not None
        return [(one.token, one.logprob) for one in content.content]

    guided, base, plain = logprobs(logprobs="guided"), logprobs(logprobs="base"), logprobs()
    assert [token for token, _ in guided] == [token for token, _ in base]
    assert any(abs(one - other) > 0.01 for (_, one), (_, other) in zip(guided, base, strict=True))
    # Up to the first token that the guide changed, base's logprobs are those of a plain answer.
    for (token, value), (other, expected) in zip(base, plain, strict=True):
        if token != other:
            break
        assert value == pytest.approx(expected, abs=1e-4)


def test_guided_and_plain_requests_at_once_are_answered_as_alone(http: Http) -> None:
    prompts = [f"{REVIEW} {word}" for word in ("", "Now.", "Please.", "Go on.")]
    wanted: list[dict[str, Any] | None] = [
        None,
        genarm(polite=1.0),
        genarm(brief=1.0),
        genarm(polite=0.5, brief=2.0),
    ]
    bodies = [body(logits, prompt) for prompt in prompts for logits in wanted]
    alone = [answer(http, given) for given in bodies]
    assert together([partial(answer, http, given) for given in bodies]) == alone


def test_a_grammar_stays_obeyed(http: Http) -> None:
    given = body(genarm(polite=5.0), structured_outputs={"choice": ["cold and rude", "warm"]})
    assert answer(http, given) in ("cold and rude", "warm")


def test_the_methods_are_offered_and_described(http: Http) -> None:
    layers = http.get("/v1/decoding/methods").json()["layers"]
    layer = {one["method"]: one for one in layers["logits"]}
    assert list(layer) == ["genarm", "linear", "dynamic_fusion", "inverse_value"]
    assert all(one["offered"] and one["paper"].startswith("https://arxiv.org/") for one in layer.values())


@pytest.mark.parametrize(
    ("logits", "param"),
    [
        ({"method": "genarm", "weights": {"rude": 1.0}}, "decoding.logits.weights"),
        ({"method": "genarm", "weights": {}}, "decoding.logits.weights"),
        ({"method": "genarm"}, "decoding.logits.weights"),
        ({"method": "genarm", "weights": {"polite": "much"}}, "decoding.logits.weights.polite"),
        ({"method": "genarm", "weights": {"polite": 1e9}}, "decoding.logits.weights.polite"),
        ({"method": "genarm", "weights": {"polite": 1.0}, "beta": 2}, "decoding.logits.beta"),
        (
            {"method": "genarm", "weights": {"polite": 1.0}, "entropy_gate": -1},
            "decoding.logits.entropy_gate",
        ),
        ({"method": "linear", "weights": {"polite": 1.0}, "alpha": 2}, "decoding.logits.alpha"),
        ({"method": "dynamic_fusion", "experts": ["polite"]}, "decoding.logits.small"),
        ({"method": "dynamic_fusion", "experts": ["polite"], "small": "tiny"}, "decoding.logits.small"),
        ({"method": "inverse_value", "values": ["brief", "v"]}, "decoding.logits.values.1"),
        ({"method": "magic"}, "decoding.logits.method"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(http: Http, logits: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        response = http.post("chat", {**body(logits), "stream": stream})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param, response.json()


def test_an_engine_without_guides_refuses_them(http: Http) -> None:
    response = http.post("chat", body(genarm(polite=1.0), model="demo:small"))
    assert response.status_code == 400
    assert "small" in response.json()["error"]["message"]


def test_a_reserved_salt_is_refused(http: Http) -> None:
    response = http.post("chat", body(cache_salt="decant.guides:polite"))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "cache_salt"
