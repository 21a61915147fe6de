"""The request's `decoding` object: at most one method a layer, typed from the registry."""

from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import ConfigDict, Field, create_model

from decoders.deployment import Deployment
from decoders.errors import Refusal
from decoders.exact import Exact
from decoders.method import EngineMethod, Method, SequenceMethod
from decoders.registry import LAYERS, METHODS, methods
from decoders.report import Report
from decoders.sequence.plain import Plain


class Decoding(Exact):
    """What the three layers do for one request. `decoding_model` makes the typed subclass that parses it."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Decoding")

    sequence: Any = None
    logits: Any = None
    cache: Any = None
    report: bool = Field(
        default=False, description="Add a `decoding` object to the response that says what the methods did."
    )

    def over(self, preset: "Decoding | None") -> "Decoding":
        """This request on top of a preset: each layer the request names replaces the preset's."""
        if preset is None:
            return self
        given = {
            name: getattr(self, name) for name in self.model_fields_set if getattr(self, name) is not None
        }
        return preset.model_copy(update=given)

    def layers(self) -> list[Method]:
        return [method for name in LAYERS if (method := getattr(self, name)) is not None]

    def sequence_method(self) -> SequenceMethod:
        return self.sequence if self.sequence is not None else Plain(method="plain")

    def engine_methods(self) -> list[EngineMethod]:
        return [method for method in (self.logits, self.cache) if method is not None]

    def admit(self, deployment: Deployment) -> None:
        """Raise Refusal for what this deployment does not offer."""
        for method in self.layers():
            if reason := method.unavailable(deployment):
                raise Refusal(
                    f"This server does not offer '{method.method}': {reason}.",
                    f"decoding.{method.layer}.method",
                )
            method.check_deployment(deployment)
        if self.cache is not None and self.sequence_method().divides():
            raise Refusal(
                f"'{self.cache.method}' cannot be combined with '{self.sequence_method().method}': an answer "
                "that goes from engine to engine would be computed and compressed anew at every change.",
                "decoding.cache.method",
            )
        for name in self.sequence_method().engines(deployment):
            for engine_method in self.engine_methods():
                engine_method.check_engine(name, deployment.engines[name])

    def cache_salt(self, own: str | None) -> str | None:
        """The salt of the request's cached blocks, its own one included; None if it needs none."""
        salts = [salt for method in self.engine_methods() if (salt := method.cache_salt()) is not None]
        return "\n".join([*salts, *([own] if own is not None else [])]) or None

    def new_report(self) -> Report:
        report = Report()
        self.sequence_method().describe(report)
        for method in self.engine_methods():
            method.describe(report)
        return report


def _layer_field(layer: str, registered: list[type[Method]]) -> tuple[Any, Any]:
    choices = [cls for cls in registered if cls.layer == layer]
    description = f"The {layer} layer's method; see GET /v1/decoding/methods."
    if not choices:
        return (
            None,
            Field(default=None, description=f"The {layer} layer; this version has no method for it."),
        )
    union: Any = reduce(or_, choices)
    if len(choices) > 1:
        union = Annotated[union, Field(discriminator="method")]
    return (union | None, Field(default=None, description=description))


def decoding_model(registered: list[type[Method]] = METHODS) -> type[Decoding]:
    """The `decoding` object's type for these methods: a union discriminated by `method` in each layer."""
    fields: dict[str, Any] = {layer: _layer_field(layer, registered) for layer in LAYERS}
    return create_model("Decoding", __base__=Decoding, **fields)


DecodingRequest = decoding_model()


def catalogue(deployment: Deployment) -> dict[str, Any]:
    """Per layer: each method, its JSON schema, and whether this deployment offers it and why not."""

    def entry(name: str, cls: type[Method]) -> dict[str, Any]:
        reason = cls.unavailable(deployment)
        return {
            "method": name,
            "summary": (cls.__doc__ or "").strip().split("\n")[0],
            "paper": cls.paper,
            "offered": reason is None,
            "reason": reason,
            "schema": cls.model_json_schema(),
        }

    return {layer: [entry(name, cls) for name, cls in methods(layer).items()] for layer in LAYERS}
