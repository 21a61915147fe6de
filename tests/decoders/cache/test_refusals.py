"""What an engine cannot compress is refused when it is started or when it is asked, never ignored."""

from pathlib import Path
from typing import Any

import pytest

from decoders.cache.engine import cache_arguments
from decoders.cache.settings import Settings, acts
from decoders.deployment import Deployment, EngineFacts
from decoders.errors import Refusal
from decoders.request import DecodingRequest
from tests.decoders.cache.engines import Engine
from tests.decoders.logits.models import LLAMA, MISTRAL, make, shape

KVMERGER = {"method": "kvmerger", "budget": 0.5}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"speculative_config": {"method": "ngram"}}, "speculative_config"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size"),
        ({"scheduler_cls": "a.b"}, "scheduler_cls"),
        ({"worker_cls": "a.b"}, "worker_cls"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype"),
        ({"kv_transfer_config": {"kv_connector": "SharedStorageConnector"}}, "kv_transfer_config"),
        ({"runner": "pooling"}, "runner"),
    ],
)
def test_arguments_that_cannot_be_combined(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        cache_arguments(["kvmerger"], arguments)


def test_a_connector_of_ours_may_be_there() -> None:
    ours = {"kv_connector": "Tails", "kv_connector_module_path": "decoders.tails.connector"}
    assert cache_arguments(["kvmerger"], {"kv_transfer_config": ours})["kv_transfer_config"] == ours


def test_a_sliding_window_is_refused_at_the_start(tmp_path: Path) -> None:
    path = make(tmp_path / "sliding", 6, MISTRAL, shape(128, 2, 4, 2, 32, sliding_window=24))
    with pytest.raises(Exception, match="it has a sliding window"):
        Engine(path)


def deployment(**facts: Any) -> Deployment:
    return Deployment("base", {"base": EngineFacts("m", 2048, **facts), "other": EngineFacts("m", 2048)})


def test_an_engine_without_the_method_refuses_the_request() -> None:
    decoding = DecodingRequest.model_validate({"cache": KVMERGER})
    with pytest.raises(Refusal, match="was started with it among its cache_methods") as caught:
        decoding.admit(deployment())
    assert caught.value.param == "decoding.cache.method"
    decoding.admit(deployment(cache_methods=("kvmerger",)))
    with pytest.raises(Refusal, match="does not offer 'kvmerger'"):
        decoding.admit(deployment(cache_methods=("snapkv",)))
    on_other = {"sequence": {"method": "plain", "engine": "other"}, "cache": KVMERGER}
    with pytest.raises(Refusal, match="Engine 'other' was not started with this method"):
        DecodingRequest.model_validate(on_other).admit(deployment(cache_methods=("kvmerger",)))


def test_an_answer_that_changes_engines_is_refused() -> None:
    both = {"base": EngineFacts("m", 64, cache_methods=("kvmerger",), switches=True)}
    both["small"] = EngineFacts("s", 64, cache_methods=("kvmerger",), switches=True)
    decoding = DecodingRequest.model_validate({"sequence": {"method": "ead"}, "cache": KVMERGER})
    with pytest.raises(Refusal, match="cannot be combined with 'ead'") as caught:
        decoding.admit(Deployment("base", both, spare_token=0))
    assert caught.value.param == "decoding.cache.method"


def test_the_engine_reads_what_the_request_says() -> None:
    given = {**KVMERGER, "sigma": 5, "mass": True, "decode": {"trigger": 100, "keep": 20}}
    method = DecodingRequest.model_validate({"cache": given}).cache
    arguments = method.engine_arguments()
    assert acts(arguments)
    assert Settings.from_wire(arguments) == method.settings()
    assert Settings.from_wire(arguments) == Settings(
        "kvmerger", window=32, heavy=0.25, pool=5, sigma=5.0, mass=True, decode=(100, 20)
    )
    assert not acts(
        DecodingRequest.model_validate({"cache": {**KVMERGER, "budget": 1.0}}).cache.engine_arguments()
    )
    assert not acts(None)


def test_a_model_with_other_layers_is_said_by_name(tmp_path: Path) -> None:
    """And one whose layers are plain is taken, whatever its shape."""
    path = make(tmp_path / "wide", 1, LLAMA, shape(64, 2, 4, 4, 64))
    assert Engine(path).run([]) == []
