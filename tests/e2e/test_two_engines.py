"""Two engines in one server: chosen by request or preset, side by side."""

from functools import partial
from typing import Any

from openai import OpenAI

from tests.e2e.client import GOOD, ON_SMALL, PROMPT, Http, greedy_text, together

LONG = {"max_tokens": 40, "ignore_eos": True}


def answer(http: Http, route: str, body: dict[str, Any]) -> str:
    """The answer's text, greedy."""
    choice = http.post_ok(route, body)["choices"][0]
    return str(choice["message"]["content"] if route == "chat" else choice["text"])


def test_the_engine_by_name_is_the_preset(http: Http) -> None:
    for route in ("chat", "text"):
        body = {**GOOD[route], **LONG}
        by_name = answer(http, route, {**body, "decoding": ON_SMALL})
        by_preset = answer(http, route, {**body, "model": "demo:small"})
        assert by_name == by_preset != ""


def test_the_default_engine_is_base_and_is_another_model(client: OpenAI) -> None:
    base = {"decoding": {"sequence": {"method": "plain", "engine": "base"}}}
    assert greedy_text(client) == greedy_text(client, extra_body=base)
    assert greedy_text(client) != greedy_text(client, extra_body={"decoding": ON_SMALL})


def test_plain_without_an_engine_is_the_default_one(http: Http) -> None:
    body = {**GOOD["text"], **LONG}
    assert answer(http, "text", {**body, "decoding": {"sequence": {"method": "plain"}}}) == answer(
        http, "text", body
    )


def test_what_a_request_names_goes_before_its_preset(http: Http) -> None:
    decoding = {"report": True, "sequence": {"method": "plain", "engine": "base"}}
    answered = http.post_ok("text", {**GOOD["text"], "model": "demo:small", "decoding": decoding})
    assert answered["decoding"]["sequence"]["tokens"].keys() == {"base"}
    kept = http.post_ok("text", {**GOOD["text"], "model": "demo:small", "decoding": {"report": True}})
    assert kept["decoding"]["sequence"]["tokens"].keys() == {"small"}


def test_mixed_requests_at_once_are_answered_as_alone(http: Http) -> None:
    prompts = [f"{PROMPT} {word}" for word in ("a", "the", "one", "some", "my", "our")]
    bodies: list[tuple[str, dict[str, Any]]] = []
    for prompt in prompts:
        for model in ("demo", "demo:small"):
            chat = [{"role": "user", "content": prompt}]
            bodies.append(("text", {"model": model, "prompt": prompt, "temperature": 0, **LONG}))
            bodies.append(("chat", {"model": model, "messages": chat, "temperature": 0, **LONG}))
    assert len(bodies) == 24
    alone = [answer(http, route, body) for route, body in bodies]
    assert len(set(alone)) > 12
    assert together([partial(answer, http, route, body) for route, body in bodies]) == alone


def test_streams_of_both_engines_run_at_the_same_time(http: Http) -> None:
    """Each stream gets its own answer, whole, while the other one runs."""

    def streamed(model: str) -> str:
        events = http.stream("text", {**GOOD["text"], "model": model, "max_tokens": 150, "ignore_eos": True})
        return "".join(choice["text"] for event in events for choice in event["choices"])

    alone = {model: streamed(model) for model in ("demo", "demo:small")}
    models = ["demo", "demo:small"] * 3
    assert together([partial(streamed, model) for model in models]) == [alone[model] for model in models]
