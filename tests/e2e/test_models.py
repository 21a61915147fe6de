"""What the server says of itself: models, methods, tokenizer, version, schema."""

from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.e2e.client import CHAT, PROMPT, QUESTION, Http, text_of


def test_the_model_and_its_presets_are_listed(client: OpenAI) -> None:
    listed = [model.id for model in client.models.list()]
    assert listed[0] == "demo"
    assert "demo:small" in listed
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("name", ["demo", "demo:small"])
def test_each_listed_model_can_be_asked_for(client: OpenAI, name: str) -> None:
    model = client.models.retrieve(name)
    assert (model.id, model.object) == (name, "model")
    assert isinstance(model.created, int)
    assert model in list(client.models.list())


def test_a_preset_says_what_it_decodes_with(http: Http) -> None:
    card = http.get("/v1/models/demo:small").json()
    assert card["parent"] == "demo"
    assert card["decoding"]["sequence"] == {"method": "plain", "engine": "small"}


@pytest.mark.parametrize("name", ["nothing", "demo:nothing", "org/nothing", "demo/x"])
def test_an_unknown_model_is_not_found(client: OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve(name)
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(**{**CHAT, "model": name})
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


def test_the_methods_are_described_by_layer(http: Http) -> None:
    answer = http.get("/v1/decoding/methods").json()
    assert answer["object"] == "decoding.methods"
    assert answer["default_engine"] == "base"
    assert {"base", "small"} <= answer["engines"].keys()
    assert list(answer["layers"]) == ["sequence", "logits", "cache"]
    for methods in answer["layers"].values():
        for method in methods:
            assert method["summary"]
            assert method["offered"] is (method["reason"] is None)
            assert method["schema"]["properties"]["method"]["const"] == method["method"]
            assert method["schema"]["additionalProperties"] is False
    plain = next(method for method in answer["layers"]["sequence"] if method["method"] == "plain")
    assert plain["offered"] is True
    assert plain["schema"]["properties"].keys() == {"method", "engine"}


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_the_openapi_schema_types_decoding(http: Http, route: str) -> None:
    api = http.get("/openapi.json").json()
    body = api["paths"][route]["post"]["requestBody"]["content"]["application/json"]["schema"]
    decoding = branch(api, field(api, resolve(api, body), "decoding"), "sequence")
    assert decoding["additionalProperties"] is False
    assert {"sequence", "logits", "cache", "report"} <= decoding["properties"].keys()
    plain = branch(api, field(api, decoding, "sequence"), "engine")
    assert plain["properties"]["method"]["const"] == "plain"
    assert plain["additionalProperties"] is False


def resolve(api: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        target: Any = api
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    return schema


def field(api: dict[str, Any], schema: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The branches of a field's type."""
    found = resolve(api, schema["properties"][name])
    branches = found.get("anyOf") or found.get("oneOf") or [found]
    nested = [resolve(api, one) for one in branches]
    return [resolve(api, deep) for one in nested for deep in one.get("oneOf", [one])]


def branch(api: dict[str, Any], branches: list[dict[str, Any]], with_field: str) -> dict[str, Any]:
    """The object type among the branches that has a field of this name."""
    found = [one for one in branches if with_field in one.get("properties", {})]
    assert found, f"no branch with a field {with_field!r} in {branches}"
    return next(
        (one for one in found if one["properties"].get("method", {}).get("const") == "plain"), found[0]
    )


def test_the_openapi_schema_documents_every_route_and_error(http: Http) -> None:
    api = http.get("/openapi.json").json()
    expected = ["/v1/models", "/v1/models/{model}", "/v1/decoding/methods", "/tokenize", "/detokenize"]
    expected += ["/health", "/ready", "/metrics", "/version", "/v1/chat/completions", "/v1/completions"]
    assert set(expected) <= set(api["paths"])
    responses = api["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert {"200", "400", "401", "404", "413", "415", "503"} <= responses.keys()


def test_tokenize_and_detokenize_are_inverse(http: Http) -> None:
    text = "The capital of 42 countries, isn't it?"
    answer = http.post_ok("/tokenize", {"model": "demo", "prompt": text, "add_special_tokens": False})
    assert answer["count"] == len(answer["tokens"]) > 5
    assert text_of(http, answer["tokens"]) == text


def test_tokenize_counts_what_a_chat_is_charged_for(http: Http) -> None:
    answer = http.post_ok("/tokenize", {"model": "demo", "messages": QUESTION, "return_token_strs": True})
    assert answer["count"] == http.post_ok("chat", CHAT)["usage"]["prompt_tokens"]
    assert len(answer["token_strs"]) == answer["count"]
    plain = http.post_ok("/tokenize", {"model": "demo:small", "prompt": PROMPT})
    assert plain["tokens"] == http.post_ok("/tokenize", {"model": "demo", "prompt": PROMPT})["tokens"]


def test_version_health_and_ready(http: Http) -> None:
    version = http.get("/version").json()
    assert version.keys() == {"version", "vllm"}
    assert all(version.values())
    health = http.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert {"base", "small"} <= health.json()["engines"].keys()
    assert set(health.json()["engines"].values()) == {"up"}
    assert http.get("/ready").json() == {"status": "ready", "model": "demo"}


def test_every_response_has_a_request_id(http: Http) -> None:
    first, second = (http.get("/health").headers["x-request-id"] for _ in range(2))
    assert first != second
    given = http.get("/health", headers={"X-Request-Id": "my-own.id:1"})
    assert given.headers["x-request-id"] == "my-own.id:1"
    replaced = http.get("/health", headers={"X-Request-Id": "not { well formed"})
    assert replaced.headers["x-request-id"] not in ("not { well formed", first, second)
