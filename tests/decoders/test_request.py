from collections.abc import AsyncGenerator
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from decoders.deployment import Deployment, EngineFacts
from decoders.errors import Refusal
from decoders.method import LogitsMethod, SequenceMethod
from decoders.registry import LAYERS, METHODS, methods, name
from decoders.request import DecodingRequest, catalogue, decoding_model
from decoders.sequence.plain import Plain

DEPLOYMENT = Deployment("base", {"base": EngineFacts("b", 512)})


class Twice(SequenceMethod):
    """Two for one."""

    method: Literal["twice"]
    rounds: int = Field(default=2, ge=1)

    @classmethod
    def unavailable(cls, deployment: Deployment) -> str | None:
        return None if len(deployment.engines) > 1 else "it needs two engines"

    def generate(self, job: Any, engines: Any) -> AsyncGenerator[Any, None]:
        raise NotImplementedError


class Nudge(LogitsMethod):
    """A push."""

    paper: ClassVar[str | None] = "arXiv 0000.00000"
    method: Literal["nudge"]

    def engine_arguments(self) -> dict[str, Any]:
        return {"nudge": 1}


MODEL = decoding_model([Plain, Twice, Nudge])


def test_every_registered_method_is_complete() -> None:
    for cls in METHODS:
        assert cls.layer in LAYERS
        assert cls.__doc__
        assert methods(cls.layer)[name(cls)] is cls
        assert all(field.description for key, field in cls.model_fields.items() if key != "method")
        assert cls.model_fields["method"].is_required()


def test_a_layer_is_a_union_discriminated_by_method() -> None:
    assert isinstance(MODEL.model_validate({"sequence": {"method": "twice"}}).sequence, Twice)
    assert isinstance(MODEL.model_validate({"sequence": {"method": "plain"}}).sequence, Plain)
    schema = MODEL.model_json_schema()["properties"]["sequence"]
    assert schema["anyOf"][0]["discriminator"]["propertyName"] == "method"


@pytest.mark.parametrize(
    "data",
    [
        {"sequence": {"method": "nope"}},
        {"sequence": {"method": "nudge"}},
        {"sequence": {}},
        {"sequence": {"method": "twice", "rounds": 0}},
        {"sequence": {"method": "twice", "round": 1}},
        {"sequence": {"method": "twice", "rounds": True}},
        {"sequence": {"method": "twice", "rounds": "2"}},
        {"sequence": {"method": "twice", "rounds": 2.5}},
        {"report": 1},
        {"report": "yes"},
        {"cache": {"method": "plain"}},
        {"other": 1},
    ],
)
def test_what_no_method_takes_is_refused(data: Any) -> None:
    with pytest.raises(ValidationError):
        MODEL.model_validate(data)


@pytest.mark.parametrize(
    ("layer", "parameters", "place"),
    [
        ("logits", {"method": "genarm", "weights": {"a": True}}, "weights.a"),
        ("logits", {"method": "genarm", "weights": {"a": "1"}}, "weights.a"),
        ("logits", {"method": "genarm", "weights": {"a": 1}, "entropy_gate": "0.5"}, "entropy_gate"),
        (
            "logits",
            {"method": "dynamic_fusion", "experts": ["a"], "small": "b", "grid": [0.5, False]},
            "grid.1",
        ),
        ("cache", {"method": "snapkv", "budget": True}, "budget"),
        ("cache", {"method": "snapkv", "decode": {"trigger": "64", "keep": 1}}, "decode.trigger"),
        ("cache", {"method": "kvmerger", "mass": 0}, "mass"),
        ("sequence", {"method": "equilibrium", "by_token": "no"}, "by_token"),
        ("sequence", {"method": "ead", "threshold": "0.6"}, "threshold"),
    ],
)
def test_no_parameter_takes_what_only_resembles_it(layer: str, parameters: Any, place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DecodingRequest.model_validate({layer: parameters})
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == f"{layer}.{parameters['method']}.{place}"


def test_a_parameter_takes_a_whole_number_for_an_integer() -> None:
    assert MODEL.model_validate({"sequence": {"method": "twice", "rounds": 3.0}}).sequence.rounds == 3


def test_a_method_the_server_lacks_is_refused_with_the_reason() -> None:
    with pytest.raises(Refusal, match="it needs two engines") as caught:
        MODEL.model_validate({"sequence": {"method": "twice"}}).admit(DEPLOYMENT)
    assert caught.value.param == "decoding.sequence.method"


def test_layers_compose_and_report_themselves() -> None:
    decoding = MODEL.model_validate({"sequence": {"method": "twice"}, "logits": {"method": "nudge"}})
    assert decoding.new_report().layers == {
        "sequence": {"method": "twice", "rounds": 2},
        "logits": {"method": "nudge"},
    }
    assert [type(m) for m in decoding.engine_methods()] == [Nudge]
    assert isinstance(MODEL().sequence_method(), Plain)


def test_a_request_overrides_a_preset_layer_by_layer() -> None:
    preset = MODEL.model_validate({"sequence": {"method": "twice"}, "logits": {"method": "nudge"}})
    merged = MODEL.model_validate({"sequence": {"method": "plain"}, "logits": None}).over(preset)
    assert (type(merged.sequence), type(merged.logits), merged.report) == (Plain, Nudge, False)
    assert MODEL.model_validate({"report": True}).over(preset).report


def test_the_catalogue_says_what_is_offered() -> None:
    entry = catalogue(DEPLOYMENT)["sequence"][0]
    assert (entry["method"], entry["offered"], entry["reason"]) == ("plain", True, None)
    assert "engine" in entry["schema"]["properties"]


def test_plain_names_the_engines_there_are() -> None:
    with pytest.raises(Refusal, match="base"):
        DecodingRequest.model_validate({"sequence": {"method": "plain", "engine": "x"}}).admit(DEPLOYMENT)
