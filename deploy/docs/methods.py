"""Parameter tables of the method pages, and the list of all methods, from the registry."""

from decoders import registry
from decoders.method import Method
from decoders.speculative.settings import AdaptiveDraft, DraftModel, Eagle, Eagle3, Ngram, Suffix
from deploy.docs.fields import line, tables

DRAFTERS = (Ngram, Suffix, DraftModel, Eagle, Eagle3, AdaptiveDraft)


def blocks() -> dict[str, str]:
    """What stands between `<!-- generated: NAME -->` and `<!-- end -->` on any page, by name."""
    found = {f"parameters {registry.name(cls)}": parameters(cls) for cls in registry.METHODS}
    for layer in registry.LAYERS:
        found[f"methods {layer}"] = overview(layer)
    found["drafters"] = "\n\n".join(drafter(cls) for cls in DRAFTERS)
    return found


def parameters(cls: type[Method]) -> str:
    return tables(cls.model_json_schema(), level=3)


def drafter(cls: type) -> str:
    schema = cls.model_json_schema()
    name = schema["properties"]["method"]["const"]
    return f"### {name}\n\n{line(schema['description'].split(chr(10) * 2)[0])}\n\n{tables(schema, level=4)}"


def overview(layer: str) -> str:
    rows = [
        f"| [`{name}`]({layer}/{name}.md) | {line(_summary(cls))} | {_paper(cls)} |"
        for name, cls in registry.methods(layer).items()
    ]
    return "\n".join(["| method | what | source |", "|---|---|---|", *rows])


def _summary(cls: type[Method]) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]


def _paper(cls: type[Method]) -> str:
    return f"[{cls.paper.rsplit('/', 1)[-1]}]({cls.paper})" if cls.paper else ""
