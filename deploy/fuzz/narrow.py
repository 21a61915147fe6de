"""The part of the OpenAPI document that valid requests are drawn from.

The document allows any text for a model's id and any number for `max_tokens`, and the server refuses nearly
all of them with a 400: drawn from the document as it is, hardly a request would reach an engine. This narrows
it to what this server can honour, and to answers that end soon.
"""

import copy
from typing import Any

Document = dict[str, Any]

FIELDS = 5  # most fields of a generated body: of many at once some two always exclude each other
TEXT = {"type": "string", "minLength": 1, "maxLength": 40, "pattern": "^[ -~\u00c0-\u024f\u4e00-\u4e20]+$"}
TOKEN = {"type": "integer", "minimum": 0, "maximum": 900}
SCHEMA = {  # grammars are vLLM's: a few that compile quickly, by every way in which one may be given
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
}
MESSAGE = {
    "type": "object",
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": TEXT},
    "required": ["role", "content"],
    "additionalProperties": False,
}
FUNCTION = {
    "type": "object",
    "properties": {"name": {"enum": ["f", "g"]}, "description": TEXT, "parameters": {"const": SCHEMA}},
    "required": ["name"],
    "additionalProperties": False,
}


def _object(**properties: Any) -> Document:
    """An object that has one or more of these properties and no others."""
    return {"type": "object", "properties": properties, "additionalProperties": False, "minProperties": 1}


def _number(least: float, most: float, kind: str = "number") -> Document:
    return {"type": kind, "minimum": least, "maximum": most}


def _list(items: Document, least: int, most: int) -> Document:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def fields(models: list[str], engines: list[str], guides: list[str]) -> dict[str, Document]:
    """What a field of any body is drawn from, by its name."""
    tool = {"type": "object", "properties": {"type": {"const": "function"}, "function": FUNCTION}}
    tool |= {"required": ["type", "function"], "additionalProperties": False}
    engine = {"enum": engines}
    weights = {**_object(**{name: _number(-2, 2) for name in guides}), "minProperties": 1}
    count = _number(1, 2, "integer")
    tokens = _number(1, 6, "integer")
    return {
        "model": {"enum": models},
        "messages": _list(MESSAGE, 1, 3),
        "prompt": {"anyOf": [TEXT, _list(TOKEN, 1, 12), _list(TEXT, 1, 2)]},
        "tokens": _list(TOKEN, 0, 20),
        "candidates": _list(TEXT, 2, 4),
        "tools": _list(tool, 1, 2),
        "response_format": {
            "anyOf": [
                {"const": {"type": "text"}},
                {"const": {"type": "json_object"}},
                {"const": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
            ]
        },
        "structured_outputs": {
            "anyOf": [
                {"const": {"json": SCHEMA}},
                {"const": {"regex": "[a-z]{1,8}"}},
                {"const": {"choice": ["yes", "no"]}},
                {"const": {"grammar": 'root ::= "yes" | "no"'}},
            ]
        },
        "max_tokens": tokens,
        "max_completion_tokens": tokens,
        "min_tokens": _number(0, 4, "integer"),
        "n": count,
        "logprobs": {"anyOf": [{"type": "boolean"}, _number(0, 5, "integer")]},
        "top_logprobs": _number(0, 5, "integer"),
        "prompt_logprobs": _number(0, 5, "integer"),
        "temperature": _number(0, 2),
        "top_p": _number(0.1, 1),
        "top_k": _number(1, 50, "integer"),
        "min_p": _number(0, 1),
        "frequency_penalty": _number(-2, 2),
        "presence_penalty": _number(-2, 2),
        "repetition_penalty": _number(0.5, 2),
        "logit_bias": _object(**{"5": _number(-100, 100), "17": _number(-100, 100)}),
        "stop": {"anyOf": [TEXT, _list(TEXT, 0, 4)]},
        "stop_token_ids": _list(TOKEN, 0, 3),
        "allowed_token_ids": _list(TOKEN, 1, 5),
        "logprob_token_ids": _list(TOKEN, 1, 3),
        "bad_words": _list(TEXT, 0, 2),
        "truncate_prompt_tokens": _number(1, 50, "integer"),
        "chat_template_kwargs": {"const": {"style": "brief"}},
        "vllm_xargs": _object(note=TEXT),
        "suffix": {"const": ""},
        "iterations": _number(1, 200, "integer"),
        "engine": engine,
        "small": engine,
        "large": engine,
        "weights": weights,
        "threshold": _number(0, 4),
        "experts": _list({"enum": guides}, 1, 1),
        "grid": _list(_number(0, 2), 1, 3),
        "guide": {"enum": guides},
    }


# What a body that chooses a decoding method may have beside it.
BESIDE_DECODING = ("model", "messages", "prompt", "max_tokens", "temperature", "seed", "stream", "n", "stop")


def method_fields(name: str, guides: list[str]) -> dict[str, Document]:
    """What fields of a decoding method are drawn from where a body has another one of the same name."""
    differing: dict[str, Document] = {"candidates": _number(2, 4, "integer")}
    if name == "DynamicFusion":
        differing["small"] = {"enum": guides}
    return differing


def _asked(document: Document) -> set[str]:
    """The names of the schemas that request bodies are made of."""
    schemas = document["components"]["schemas"]
    bodies = [way.get("requestBody", {}) for path in document["paths"].values() for way in path.values()]
    found: set[str] = set()
    left = [name for body in bodies for name in _named(body)]
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            left += _named(schemas[name])
    return found


def _named(part: Any) -> list[str]:
    """The names of the schemas that a part of the document refers to."""
    if isinstance(part, list):
        return [name for one in part for name in _named(one)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"].rpartition("/")[2]] if isinstance(part.get("$ref"), str) else []
    return own + [name for one in part.values() for name in _named(one)]


def narrowed(
    document: Document, models: list[str], engines: list[str], guides: list[str], decoding: bool
) -> Document:
    """A copy of the document whose bodies this server can honour, for the most part.

    Args:
        document: the server's own.
        models: model ids, presets included.
        engines: names of engines.
        guides: names of the default engine's guides.
        decoding: whether every body that can shall choose decoding methods.
    """
    document = copy.deepcopy(document)
    drawn = fields(models, engines, guides)
    for name in sorted(_asked(document)):
        schema = document["components"]["schemas"][name]
        properties = schema.get("properties", {})
        is_body = schema.get("additionalProperties") is False and "model" in properties
        if not is_body and not {"method", "type"} & properties.keys():
            continue
        if is_body and decoding and "decoding" in properties:
            for field in properties.keys() - {*BESIDE_DECODING, "decoding", *schema.get("required", ())}:
                del properties[field]
            properties["decoding"] = {"$ref": "#/components/schemas/Decoding"}
            schema["required"] = [*schema.get("required", ()), "decoding"]
        own = {} if is_body else method_fields(name, guides)
        for field in properties.keys() & drawn.keys():
            properties[field] = own.get(field, drawn[field])
        if is_body and "candidates" in properties:  # a ranking: its question is put in other words
            properties.pop("messages", None)
            properties |= {"prompt": TEXT, "model": {"enum": [one for one in models if ":" not in one]}}
            schema["required"] = [*schema["required"], "prompt"]
        if "templates" in properties:
            properties["templates"] = {"const": properties["templates"]["default"]}
        if is_body:
            schema["maxProperties"] = FIELDS
    return document
