"""The reference pages: configuration, commands, HTTP."""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

from deploy.docs.fields import PAGE, line, table, tables
from deploy.docs.methods import DRAFTERS as DRAFTER_MODELS
from server import cli
from server.config import ServeSettings

MADE = "<!-- Made by `python -m deploy.docs` from the code; change that, not this page. -->"
WIDTH = "110"
METHODS_PAGE = "../methods/index.md"
DRAFTERS = {cls.__name__: cls.model_fields["method"].annotation.__args__[0] for cls in DRAFTER_MODELS}
COMMANDS: tuple[Sequence[str], ...] = (
    (),
    ("serve",),
    ("doctor",),
    ("rank",),
    ("bench",),
    ("calibrate",),
    ("calibrate", "ead"),
    ("calibrate", "conformal"),
    ("train-reward",),
    ("merge-adapter",),
)


def pages() -> dict[str, Callable[[], str]]:
    """The pages by name below docs/."""
    return {
        "reference/configuration.md": configuration,
        "reference/commands.md": commands,
        "reference/http.md": http,
    }


def configuration() -> str:
    about = """# Configuration

Settings of `decant serve` come from flags, then `DECANT_*` variables, then the YAML file (`--config`), then
defaults. The names are the same in all three: `--limits.n 4`, `DECANT_LIMITS__N=4`, `limits: {n: 4}`. A name
that does not exist is an error. Lists and objects are written as JSON in flags and variables. A whole file is
[deploy/decant.example.yaml](../../deploy/decant.example.yaml). Decoding objects of presets are described with
the [methods](../methods/index.md), the methods of `speculative` [on their
page](../methods/sequence/speculative.md).

## All settings"""
    schema = ServeSettings.model_json_schema()
    closed = {"Decoding", *DRAFTERS}
    for name in DRAFTERS:
        schema["$defs"][name] = {PAGE: f"../methods/sequence/speculative.md#{DRAFTERS[name]}"}
    schema["$defs"]["Decoding"] = {PAGE: METHODS_PAGE}
    return _page(about, tables(schema, level=2, closed=closed))


def commands() -> str:
    parts = ["# Commands", "Every command explains its flags with `--help`; this is what it prints."]
    for command in COMMANDS:
        title = " ".join(["decant", *command])
        parts.append(f"## {title}\n\n```text\n{_help(command)}\n```")
    return _page(*parts)


def _help(command: Sequence[str]) -> str:
    output = io.StringIO()
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ.update(COLUMNS=WIDTH, NO_COLOR="1")
    try:
        with redirect_stdout(output):
            cli.main([*command, "--help"])
    except SystemExit as end:
        if end.code:
            raise AssertionError(f"decant {' '.join(command)} --help: exit status {end.code}") from None
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return "\n".join(text.rstrip() for text in output.getvalue().strip().splitlines())


def http() -> str:
    document = openapi()
    schemas = document["components"]["schemas"]
    about = """# HTTP

A running server describes itself at `/openapi.json`, and its methods with their JSON schemas at
`/v1/decoding/methods`. This page is made from the same document. Errors have OpenAI's shape on every route.
As in OpenAI's API, `null` means left out; a field that nothing would act on is refused with 400."""
    parts = [about]
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            parts.append(_operation(f"{verb.upper()} {path}", operation, schemas))
    parts.append("## Error bodies\n\n" + table(schemas["Error"], schemas))
    parts.append("### ErrorDetail\n\n" + table(schemas["ErrorDetail"], schemas))
    return _page(*parts)


def openapi() -> dict[str, Any]:
    """The document of a server whose keys are configured."""
    from fastapi import FastAPI

    from server.auth import ALWAYS_OPEN
    from server.document import completed
    from server.routes import generate, models, operate, rank, tokenize

    app = FastAPI()
    for module in (generate, rank, models, tokenize, operate):
        app.include_router(module.router)
    return completed(app.openapi(), ALWAYS_OPEN)


def _operation(title: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    parts = [f"## {title}", line(operation.get("description") or operation.get("summary", ""))]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    for name in _named(body, schemas):
        parts.append(f"Body, `{name}`:")
        parts.append(table(schemas[name], _named_only(schemas)))
    parameters = operation.get("parameters", ())
    if parameters:
        told = ", ".join(f"`{one['name']}` ({one['in']})" for one in parameters)
        parts.append(f"Parameters: {told}.")
    answers = [f"{status} {line(answer['description'])}" for status, answer in operation["responses"].items()]
    parts.append("Answers: " + "; ".join(one.rstrip(".") for one in answers) + ".")
    answer = (
        operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
    )
    for name in _named(answer, schemas):
        parts += [f"Answer, `{name}`:", tables({**schemas[name], "$defs": schemas}, level=3)]
    return "\n\n".join(part for part in parts if part)


def _named_only(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The models with their fields left out: what a body is made of is vLLM's, or on another page."""
    bare = {name: {"type": "object"} if "properties" in one else one for name, one in schemas.items()}
    return {**bare, "Decoding": {PAGE: METHODS_PAGE}}


def _named(body: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[str]:
    """The models that a body may be: it or its alternatives, but not what these are made of."""
    options = [body, *body.get("anyOf", ()), *body.get("oneOf", ())]
    names = [option["$ref"].rsplit("/", 1)[-1] for option in options if "$ref" in option]
    return [name for name in names if name in schemas]


def _page(*parts: str) -> str:
    return "\n\n".join([MADE, *parts]) + "\n"
