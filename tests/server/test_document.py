from typing import Any

import pytest
from fastapi import FastAPI

from decoders.sequence.equilibrium import ITERATIONS
from server.contract import INERT, ONLY, REFUSED
from server.document import BODIES, EVERYWHERE, completed
from server.routes import generate, models, operate, rank, tokenize


def document(open_paths: frozenset[str] | None) -> dict[str, Any]:
    app = FastAPI()
    for module in (generate, rank, models, tokenize, operate):
        app.include_router(module.router)
    return completed(app.openapi(), open_paths)


def operations(api: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(path, operation) for path, found in api["paths"].items() for operation in found.values()]


@pytest.mark.parametrize("name", BODIES)
def test_a_body_has_the_fields_that_are_taken_and_no_others(name: str) -> None:
    body = document(None)["components"]["schemas"][name]
    assert body["additionalProperties"] is False
    assert not REFUSED.keys() & body["properties"].keys()
    assert INERT | ONLY.keys() <= body["properties"].keys()


@pytest.mark.parametrize("name", BODIES)
def test_null_leaves_out_what_may_be_left_out(name: str) -> None:
    body = document(None)["components"]["schemas"][name]
    for field, schema in body["properties"].items():
        null = {"type": "null"} in schema.get("anyOf", ()) or None in schema.get("enum", ())
        assert (field in INERT or null) is (field not in body["required"]), field


def test_a_field_keeps_what_is_said_of_it() -> None:
    field = document(None)["components"]["schemas"]["RankRequest"]["properties"]["iterations"]
    assert field["anyOf"] == [{"type": "integer", "minimum": 1, "maximum": 100_000}, {"type": "null"}]
    assert field["default"] == ITERATIONS
    assert "Rounds" in field["description"]


def test_every_route_says_what_it_answers_to_a_bad_request() -> None:
    for path, operation in operations(document(frozenset({"/health"}))):
        assert {str(status) for status in EVERYWHERE} <= operation["responses"].keys(), path
        assert "422" not in operation["responses"], path
    assert "HTTPValidationError" not in document(None)["components"]["schemas"]


def test_routes_that_need_a_key_say_so() -> None:
    api = document(frozenset({"/health", "/ready"}))
    for path, operation in operations(api):
        is_open = path in ("/health", "/ready")
        assert ("security" in operation, "401" in operation["responses"]) == (not is_open, not is_open), path
    assert api["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_without_keys_no_route_needs_one() -> None:
    api = document(None)
    assert "securitySchemes" not in api["components"]
    assert not [path for path, one in operations(api) if "security" in one or "401" in one["responses"]]
