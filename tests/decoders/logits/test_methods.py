"""The methods' parameters, where they are admitted, what keeps their blocks apart, what the worker gets."""

import json
import math
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from decoders.deployment import Deployment, EngineFacts
from decoders.errors import Refusal
from decoders.logits.guidance import Guidance, Outcome
from decoders.logits.wire import KEY
from decoders.method import SequenceMethod
from decoders.registry import METHODS
from decoders.request import DecodingRequest, catalogue, decoding_model

NAN, INF = math.nan, math.inf
GENARM: dict[str, Any] = {"method": "genarm", "weights": {"polite": 1.0}}
LINEAR: dict[str, Any] = {"method": "linear", "weights": {"polite": 1.0}}
FUSION: dict[str, Any] = {"method": "dynamic_fusion", "experts": ["polite"], "small": "brief"}
VALUE: dict[str, Any] = {"method": "inverse_value", "values": ["polite"]}
EVERY = pytest.mark.parametrize("asked", [GENARM, LINEAR, FUSION, VALUE], ids=lambda one: one["method"])


def parsed(asked: Mapping[str, Any], **rest: Any) -> Any:
    return DecodingRequest.model_validate({"logits": asked, **rest})


def weights(*values: Any) -> dict[str, Any]:
    return {f"guide{i}": value for i, value in enumerate(values)}


# ---- parameters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        GENARM,
        {**GENARM, "weights": weights(*[1] * 16)},
        {**GENARM, "weights": weights(-1000.0, 0, 1000, 1e-30)},
        {**GENARM, "entropy_gate": 0, "logprobs": "base"},
        {**GENARM, "entropy_gate": None},
        {**LINEAR, "alpha": 0},
        {**LINEAR, "alpha": 1.0, "entropy_gate": 3.5},
        FUSION,
        {**FUSION, "experts": list(weights(*range(15))), "grid": [0.0] * 64},
        {**FUSION, "grid": [-0.5]},
        VALUE,
        {**VALUE, "values": list(weights(*range(16))), "weight": -0.5},
    ],
)
def test_what_a_method_takes(asked: dict[str, Any]) -> None:
    method = parsed(asked).logits
    assert method.method == asked["method"]
    for name, value in asked.items():
        assert getattr(method, name) == value


@EVERY
@pytest.mark.parametrize(
    "wrong",
    [
        {"entropy_gate": -0.1},
        {"entropy_gate": NAN},
        {"entropy_gate": INF},
        {"entropy_gate": "high"},
        {"entropy_gate": [1.0]},
        {"logprobs": "both"},
        {"logprobs": None},
        {"beta": 1.0},
        {"weigths": {}},
    ],
    ids=repr,
)
def test_what_no_method_takes(asked: dict[str, Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parsed({**asked, **wrong})


@pytest.mark.parametrize("asked", [GENARM, LINEAR], ids=lambda one: one["method"])
@pytest.mark.parametrize(
    "wrong",
    [
        {},
        None,
        [1.0],
        "polite",
        1.0,
        {"polite": NAN},
        {"polite": INF},
        {"polite": -INF},
        {"polite": "strong"},
        {"polite": None},
        {"polite": [1.0]},
        {"polite": 1000.1},
        {"polite": -1e9},
        {"": 1.0},
        {"p" * 65: 1.0},
        weights(*[1.0] * 17),
        weights(1.0, NAN),
    ],
    ids=repr,
)
def test_weights_that_are_none(asked: dict[str, Any], wrong: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        parsed({**asked, "weights": wrong})
    assert all("weights" in error["loc"] for error in caught.value.errors())


@pytest.mark.parametrize(
    ("asked", "field", "wrong"),
    [
        *[(LINEAR, "alpha", value) for value in (-0.01, 1.01, NAN, INF, "x", None)],
        *[(FUSION, "experts", value) for value in ([], None, "polite", [1], [""], ["x" * 65], [["a"]])],
        (FUSION, "experts", list(weights(*range(16)))),
        *[(FUSION, "small", value) for value in (None, "", "x" * 65, ["brief"], 3)],
        *[
            (FUSION, "grid", value)
            for value in ([], [NAN], [INF], ["x"], [100.5], [-101], [0.1] * 65, None, 1.0)
        ],
        *[(VALUE, "values", value) for value in ([], None, "polite", [1], [""], list(weights(*range(17))))],
        *[(VALUE, "weight", value) for value in (NAN, INF, -INF, "x", None, 1001, [1.0])],
    ],
)
def test_a_wrong_value_is_refused_by_its_field(asked: dict[str, Any], field: str, wrong: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        parsed({**asked, field: wrong})
    assert all(field in error["loc"] for error in caught.value.errors())


@pytest.mark.parametrize(("asked", "field"), [(VALUE, "values"), (FUSION, "experts")])
def test_a_guide_named_twice_is_refused(asked: dict[str, Any], field: str) -> None:
    """It would be counted once, or its alpha be reported as the other's."""
    with pytest.raises(ValidationError) as caught:
        parsed({**asked, field: ["polite", "terse", "polite"]})
    assert field in caught.value.errors()[0]["loc"]


@pytest.mark.parametrize("asked", [{"method": "genarm"}, {"method": "linear"}, {"method": "inverse_value"}])
def test_what_to_guide_by_must_be_said(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parsed(asked)


def test_the_papers_defaults() -> None:
    method = parsed(FUSION).logits
    assert method.grid == pytest.approx([i / 10 for i in range(21)])
    assert (parsed(VALUE).logits.weight, parsed(LINEAR).logits.alpha) == (1.0, 0.0)
    assert (method.entropy_gate, method.logprobs) == (None, "guided")


# ---- admission -------------------------------------------------------------------------------------------

GUIDED = EngineFacts("b", 512, guides=("polite", "brief"))
BARE = EngineFacts("s", 512)
DEPLOYMENT = Deployment("base", {"base": GUIDED, "small": BARE})


class Everywhere(SequenceMethod):
    """Asks every engine."""

    method: Literal["everywhere"]

    def generate(self, job: Any, engines: Any) -> AsyncGenerator[Any, None]:
        raise NotImplementedError


def plain(engine: str) -> dict[str, Any]:
    return {"method": "plain", "engine": engine}


@EVERY
def test_an_engine_with_the_guides_admits(asked: dict[str, Any]) -> None:
    parsed(asked).admit(DEPLOYMENT)
    parsed(asked, sequence=plain("base")).admit(DEPLOYMENT)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({**GENARM, "weights": {"polite": 1.0, "rude": 1.0}}, "weights"),
        ({**GENARM, "weights": {"polite": 1.0, "rude": 0.0}}, "weights"),
        ({**LINEAR, "weights": {"rude": -1.0}}, "weights"),
        ({**FUSION, "experts": ["polite", "rude"]}, "experts.1"),
        ({**FUSION, "small": "rude"}, "small"),
        ({**VALUE, "values": ["rude", "polite"]}, "values.0"),
    ],
)
def test_an_unknown_guide_is_refused_by_its_field(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(Refusal, match="polite, brief") as caught:
        parsed(asked).admit(DEPLOYMENT)
    assert caught.value.param == f"decoding.logits.{field}"
    assert "rude" not in caught.value.message


@EVERY
def test_the_engine_that_runs_the_request_is_the_one_checked(asked: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match=r"small.*none") as caught:
        parsed(asked, sequence=plain("small")).admit(DEPLOYMENT)
    assert caught.value.param.startswith("decoding.logits.")
    other = Deployment("small", DEPLOYMENT.engines)
    parsed(asked, sequence=plain("base")).admit(other)
    with pytest.raises(Refusal, match="small"):
        parsed(asked).admit(other)


def test_a_method_that_may_use_every_engine_needs_the_guides_in_each() -> None:
    model = decoding_model([*METHODS, Everywhere])
    request = model.model_validate({"sequence": {"method": "everywhere"}, "logits": GENARM})
    with pytest.raises(Refusal, match="small") as caught:
        request.admit(DEPLOYMENT)
    assert caught.value.param == "decoding.logits.weights"
    request.admit(Deployment("base", {"base": GUIDED, "large": GUIDED}))


@EVERY
def test_without_any_guides_the_method_is_not_offered(asked: dict[str, Any]) -> None:
    deployment = Deployment("base", {"base": BARE})
    with pytest.raises(Refusal, match="guides") as caught:
        parsed(asked).admit(deployment)
    assert caught.value.param == "decoding.logits.method"
    entries = {entry["method"]: entry for entry in catalogue(deployment)["logits"]}
    assert not entries[asked["method"]]["offered"]
    assert "guides" in entries[asked["method"]]["reason"]
    assert {entry["method"]: entry["offered"] for entry in catalogue(DEPLOYMENT)["logits"]}[asked["method"]]


# ---- cache salts -----------------------------------------------------------------------------------------


def salt(asked: Mapping[str, Any] | None, own: str | None = None) -> str | None:
    return DecodingRequest.model_validate({"logits": asked}).cache_salt(own)


def test_salts_are_one_for_each_set_of_guides_that_run() -> None:
    def of(**values: float) -> str | None:
        return salt({"method": "genarm", "weights": values})

    assert of(a=1.0, b=2.0) == of(b=-0.5, a=0.1) == of(a=1.0, b=1.0, c=0.0)
    assert of(a=1.0) == salt({"method": "inverse_value", "values": ["a"]})
    assert of(a=1.0) == salt({"method": "linear", "weights": {"a": 1.0}, "alpha": 0.1, "logprobs": "base"})
    assert of(a=1.0, b=1.0) == salt({"method": "dynamic_fusion", "experts": ["b"], "small": "a"})
    sets = [of(a=1.0), of(b=1.0), of(a=1.0, b=1.0), of(a=1.0, b=1.0, c=1.0), of(ab=1.0), of(a=0.0)]
    assert len(set(sets)) == len(sets)


def of_names(*names: str) -> str | None:
    return salt({"method": "genarm", "weights": dict.fromkeys(names, 1.0)})


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a", "b"), ("a+b",)), (("a", "b+c"), ("a+b", "c")), (("a-b",), ("a", "b")), (("a.b",), ("a", "b"))],
)
def test_no_name_of_a_guide_stands_for_two(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """These are names that the configuration allows."""
    assert of_names(*one) != of_names(*other)


def test_no_guides_no_salt() -> None:
    for asked in (None, {"method": "genarm", "weights": {"a": 0.0}}, {**VALUE, "weight": 0.0}):
        assert salt(asked) is None
        assert salt(asked, "mine") == "mine"


def test_a_users_salt_still_tells_users_apart() -> None:
    salts = [
        salt(asked, own)
        for asked in (None, GENARM, {**GENARM, "weights": {"brief": 1.0}})
        for own in (None, "ann", "bob")
    ]
    assert len(set(salts)) == len(salts)


# ---- the wire --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {**GENARM, "weights": {"polite": 0.5, "brief": 0.0}, "entropy_gate": 1.5, "logprobs": "base"},
        {**LINEAR, "alpha": 0.25},
        {**FUSION, "grid": [0.0, 0.75], "entropy_gate": 2.0},
        {**VALUE, "values": ["polite", "brief"], "weight": -2.0},
    ],
)
def test_guidance_survives_the_wire(asked: dict[str, Any]) -> None:
    method = parsed(asked).logits
    arguments = method.engine_arguments()
    assert list(arguments) == [KEY]
    sent = json.loads(json.dumps(arguments))  # plain values only
    arrived = Guidance.from_wire(sent)
    assert arrived is not None
    assert arrived.to_wire() == method.guidance().to_wire()
    assert arrived.guides() == method.guidance().guides()
    assert (arrived.gate, arrived.logprobs) == (asked.get("entropy_gate"), asked.get("logprobs", "guided"))


def test_what_each_method_asks_of_the_worker() -> None:
    def asks(asked: dict[str, Any]) -> Any:
        return Guidance.from_wire(parsed(asked).logits.engine_arguments())

    assert asks({**GENARM, "weights": {"polite": 2.0}}).weights == {"polite": 2.0}
    assert asks({**LINEAR, "alpha": 0.1}).alpha == 0.1
    assert asks({**VALUE, "values": ["a", "b"], "weight": 0.5}).weights == {"a": 0.5, "b": 0.5}
    fusion = asks({**FUSION, "experts": ["b", "a"], "grid": [1.0]})
    assert (list(fusion.experts), fusion.small, list(fusion.grid)) == (["b", "a"], "brief", [1.0])
    assert fusion.guides() == ("a", "b", "brief")


@pytest.mark.parametrize("extra", [None, {}, {"other": 1}])
def test_a_request_without_guidance_has_none(extra: Any) -> None:
    assert Guidance.from_wire(extra) is None


def test_an_outcome_counts_positions_not_computations() -> None:
    outcome = Outcome()
    for position, opened in ((0, False), (0, True), (1, False), (2, True), (2, True)):
        outcome.opened[position] = opened
    assert outcome.summary() == {"tokens": 3, "guided": 2}


def test_an_outcome_is_of_as_many_tokens_as_were_delivered() -> None:
    outcome = Outcome([7, 8, 9])
    for position, opened in enumerate((True, False, True)):
        outcome.add(position, opened, {"polite": 0.5 + position})
    sent = json.loads(json.dumps(outcome.to_wire()))
    assert Outcome.from_wire(sent) == outcome
    assert outcome.summary(2) == {
        "tokens": 2,
        "guided": 1,
        "mean_alpha": {"polite": 1.0},
        "alphas": {"polite": [0.5, 1.5]},
    }
    assert Outcome().summary(3) == {"tokens": 3, "guided": 0}


def test_a_methods_summary_is_a_whole_sentence() -> None:
    """The list of methods shows the docstring's first line alone."""
    listed = catalogue(Deployment("base", {"base": EngineFacts("m", 10, ("polite",))}))
    for layer in listed.values():
        for entry in layer:
            assert entry["summary"].endswith("."), entry["method"]
