"""A pydantic model's fields as Markdown tables, from its JSON schema."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
BOUNDS = {
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "exclusiveMaximum": "< {}",
    "minItems": "{} items or more",
    "maxItems": "{} items at most",
    "minLength": "{} characters or more",
    "maxLength": "{} characters at most",
    "minProperties": "{} or more",
    "maxProperties": "{} at most",
}
LARGEST = 2**53  # bounds above are those of an integer's type, and say nothing
PAGE = "x-page"  # in a model's schema: the page that describes it
HEAD = "| field | type | default | what |\n|---|---|---|---|"


def tables(schema: Schema, *, level: int, closed: Collection[str] = ()) -> str:
    """A table of the model's fields, and one below a heading for each model that they are made of.

    level: of those headings. closed: names of models that have no table here.
    """
    definitions = schema.get("$defs", {})
    parts = [table(schema, definitions)]
    for name in reached(schema, definitions, closed):
        inner = definitions[name]
        if "properties" in inner:
            about = summary(inner)
            parts += [f"{'#' * level} {name}"] + ([about] if about else []) + [table(inner, definitions)]
    return "\n\n".join(parts)


def table(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """One row a field."""
    required = set(schema.get("required", ()))
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else shown(field.get("default"))
        if "const" in field:
            default = f"`{json.dumps(field['const'])}`"
        about = line(field.get("description", ""))
        limits = bounds(field, definitions)
        cells = (f"`{name}`", kind(field, definitions), default, f"{about} {limits}".strip())
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([HEAD, *rows]) if rows else "No fields."


def reached(schema: Schema, definitions: Mapping[str, Schema], closed: Collection[str]) -> list[str]:
    """The models that the schema is made of, in the order in which they are met."""
    found: dict[str, None] = {}
    waiting = list(references(schema.get("properties", {})))
    while waiting:
        name = waiting.pop(0)
        if name in found or name in closed or name not in definitions:
            continue
        found[name] = None
        waiting += references(definitions[name])
    return list(found)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rsplit("/", 1)[-1]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def kind(field: Schema, definitions: Mapping[str, Schema]) -> str:
    """The field's type in words, with links to models that are described on the same page."""
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        inner = definitions.get(name, {})
        if PAGE in inner:
            return f"[{name}]({inner[PAGE]})"
        return f"[{name}](#{name.lower()})" if "properties" in inner else kind(inner, definitions)
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "const" in field:
        return "text" if isinstance(field["const"], str) else "constant"
    for union in ("anyOf", "oneOf", "allOf"):
        if union in field:
            kinds = [kind(one, definitions) for one in field[union] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if field.get("type") == "array":
        items = field.get("items") or field.get("prefixItems", [{}])[0]
        return f"list of {kind(items, definitions)}"
    if field.get("type") == "object":
        inner = field.get("additionalProperties") or next(
            iter(field.get("patternProperties", {}).values()), None
        )
        return f"{kind(inner, definitions)} by name" if isinstance(inner, Mapping) and inner else "object"
    if field.get("format") in ("path", "file-path", "directory-path"):
        return "path"
    words = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}
    found = field.get("type", "any")
    return (
        " or ".join(words.get(one, one) for one in found)
        if isinstance(found, list)
        else (words.get(found, found))
    )


def bounds(field: Schema, definitions: Mapping[str, Schema]) -> str:
    """What a value must be, such as `(> 0, <= 1)`."""
    options = [field, *field.get("anyOf", ())]
    found = [
        template.format(f"{option[name]:g}" if isinstance(option[name], float) else option[name])
        for option in options
        for name, template in BOUNDS.items()
        if name in option and abs(option[name]) < LARGEST
    ]
    return f"({', '.join(dict.fromkeys(found))})" if found else ""


def shown(default: Any) -> str:
    """A default as JSON; nothing where a field may simply be left out."""
    if default is None:
        return ""
    text = json.dumps(default, ensure_ascii=False)
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def summary(schema: Schema) -> str:
    """The first paragraph of a model's docstring."""
    return line(str(schema.get("description", "")).split("\n\n")[0])


def line(text: str) -> str:
    """Text for one cell."""
    escaped = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return escaped
