"""The OpenAPI document: FastAPI's, made to say what every route takes and answers.

FastAPI knows the request models, not the contract (`server.contract`) that is checked before them, nor what
surrounds the routes: keys, limits, the shape of errors.
"""

from collections.abc import Collection
from typing import Any

from server.contract import INERT, ONLY, REFUSED
from server.schemas import ERRORS

BODIES = ("ChatRequest", "TextRequest", "RankRequest", "TokenizeText", "TokenizeChat", "DetokenizeBody")
EVERYWHERE = (400, 405, 413, 431, 500)  # what any route may answer
INERT_FIELD = {"description": "Accepted as OpenAI's; changes nothing."}
KEY = {"type": "http", "scheme": "bearer", "description": "An API key of this server."}

Document = dict[str, Any]


def completed(document: Document, open_paths: Collection[str] | None) -> Document:
    """FastAPI's document, completed in place.

    Args:
        document: what `FastAPI.openapi()` made.
        open_paths: paths that need no key; None if no path does.
    """
    components = document["components"]
    for name in BODIES:
        _close(components["schemas"][name])
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    if open_paths is not None:
        components["securitySchemes"] = {"key": KEY}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            answers = operation["responses"]
            answers.pop("422", None)  # invalid bodies get 400
            for status in EVERYWHERE:
                answers.setdefault(str(status), _error(status))
            if open_paths is None:
                answers.setdefault("403", _error(403))
            else:
                answers.pop("403", None)
            if open_paths is None or path in open_paths:
                answers.pop("401", None)
            else:
                operation["security"] = [{"key": []}]
                answers.setdefault("401", _error(401))
    return document


def _close(body: Document) -> None:
    """Leave the fields that may be sent, and no others."""
    fields = body["properties"]
    for name in REFUSED.keys() & fields.keys():
        del fields[name]
    for name, values in ONLY.items():
        fields.setdefault(name, {"enum": [*values, None]})
    for name in sorted(INERT):
        fields.setdefault(name, INERT_FIELD)
    for name in fields.keys() - set(body.get("required", ())):
        fields[name] = _or_null(fields[name])
    body["additionalProperties"] = False


def _or_null(field: Document) -> Document:
    """The same field, which null leaves out."""
    said = {key: value for key, value in field.items() if key in ("default", "description", "title")}
    allowed = {key: value for key, value in field.items() if key not in said}
    choices = allowed.get("anyOf", [allowed])
    if not allowed or {"type": "null"} in choices or None in allowed.get("enum", ()):
        return field
    return {"anyOf": [*choices, {"type": "null"}], **said}


def _error(status: int) -> Document:
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        "description": ERRORS[status]["description"],
        "content": {"application/json": {"schema": schema}},
    }
