"""The engine option: what it becomes for vLLM, and what is refused."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from decoders.speculative.arguments import SETTINGS, speculative_arguments
from decoders.speculative.settings import SpeculativeSettings

ADAPTER: TypeAdapter[Any] = TypeAdapter(SpeculativeSettings)
NGRAM = {"method": "ngram"}


def arguments(option: dict[str, Any], given: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return speculative_arguments(ADAPTER.validate_python(option), given or {}, **more)


def test_vllms_settings_are_passed_through() -> None:
    option = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_min": 1, "prompt_lookup_max": 3}
    made = arguments(option, {"dtype": "float32", "additional_config": {"x": 1}})
    config = made["speculative_config"]
    assert {key: config[key] for key in option} == option
    assert "governor" not in config
    assert made["dtype"] == "float32"
    assert made["additional_config"]["x"] == 1
    assert ADAPTER.validate_python(made["additional_config"][SETTINGS]).num_speculative_tokens == 5


def test_adaptive_draft_is_a_draft_model_for_vllm() -> None:
    made = arguments(
        {"method": "adaptive_draft", "model": "m", "max_draft_tokens": 7}, draft_path="/models/m"
    )
    config = made["speculative_config"]
    assert (config["method"], config["model"], config["num_speculative_tokens"]) == (
        "draft_model",
        "/models/m",
        7,
    )
    assert config["draft_sample_method"] == "probabilistic"
    assert not {"gamma", "stop", "adapt", "max_draft_tokens", "governor"} & set(config)
    assert made["async_scheduling"] is False


@pytest.mark.parametrize(
    ("option", "where"),
    [
        ({}, ()),
        ({"method": "magic"}, ()),
        ({"method": "ngram", "k": 3}, ("ngram", "k")),
        ({"method": "ngram", "num_speculative_tokens": 0}, ("ngram", "num_speculative_tokens")),
        ({"method": "ngram", "prompt_lookup_min": 5}, ("ngram",)),
        ({"method": "draft_model"}, ("draft_model", "model")),
        ({"method": "draft_model", "model": "m", "stop": 0.1}, ("draft_model", "stop")),
        (
            {"method": "draft_model", "model": "m", "draft_sample_method": "x"},
            ("draft_model", "draft_sample_method"),
        ),
        ({"method": "adaptive_draft", "model": "m", "stop": 2}, ("adaptive_draft", "stop")),
        ({"method": "adaptive_draft", "model": "m", "gamma": 0}, ("adaptive_draft", "gamma")),
        (
            {"method": "adaptive_draft", "model": "m", "num_speculative_tokens": 3},
            ("adaptive_draft", "num_speculative_tokens"),
        ),
    ],
)
def test_a_bad_option_is_named(option: dict[str, Any], where: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(option)
    assert where in [tuple(error["loc"]) for error in caught.value.errors()]


@pytest.mark.parametrize(
    ("given", "more", "says"),
    [
        ({}, {"guides": ("polite",)}, "guides"),
        ({}, {"cache_methods": ("kvmerger",)}, "cache_methods"),
        ({"speculative_config": {"method": "ngram"}}, {}, "args.speculative_config"),
        ({"logits_processors": ["a:B"]}, {}, "args.logits_processors"),
        ({"pipeline_parallel_size": 2}, {}, "args.pipeline_parallel_size"),
        ({"worker_cls": "a.B"}, {}, "args.worker_cls"),
        ({"tensor_parallel_size": 2}, {}, "speculative.governor"),
        ({"async_scheduling": True}, {}, "args.async_scheduling"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], more: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        arguments(NGRAM, given, **more)


def test_without_a_governor_ranks_need_not_agree() -> None:
    assert arguments({**NGRAM, "governor": False}, {"tensor_parallel_size": 2})["tensor_parallel_size"] == 2
