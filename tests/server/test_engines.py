"""What is checked before an engine is started, and what the operator then reads."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from server import embedded
from server.config import ConfigError, EngineSettings, ServeSettings
from server.engine import DecodingEngine
from server.engines import plan_engines
from server.listen import bind
from server.metrics import EngineMetrics, exposition
from server.models import locate, weight_bytes

SMALL = {"model": "embedded:small"}


def settings(engines: dict[str, Any], **fields: Any) -> ServeSettings:
    table = {name: EngineSettings.model_validate(engine) for name, engine in engines.items()}
    return ServeSettings(model=None, engines=table, **fields)


@pytest.fixture
def other_vocabulary(tmp_path: Path) -> Path:
    """The small model with two tokens swapped: same size, other content."""
    folder = tmp_path / "other"
    shutil.copytree(embedded.path("small"), folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


def test_the_embedded_engines_are_planned() -> None:
    plans = plan_engines(ServeSettings(model=None))
    assert [plan.name for plan in plans] == ["base", "small"]
    assert all(Path(plan.path).is_dir() for plan in plans)


def test_engine_arguments_override_the_common_ones() -> None:
    engines = {"a": {**SMALL, "args": {"max_num_seqs": 3}}, "b": SMALL}
    plans = plan_engines(settings(engines, engine_args={"max_num_seqs": 5, "dtype": "float32"}))
    assert [plan.arguments["max_num_seqs"] for plan in plans] == [3, 5]
    assert plans[0].arguments["dtype"] == "float32"


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ({"model": "embedded:huge"}, "the embedded models are base, small, polite, brief"),
        ({"model": "/no/such/folder"}, "no such folder"),
        ({"model": "./nowhere"}, "no such folder"),
        ({"model": "not a model"}, "no such folder"),
        ({**SMALL, "args": {"max_model_length": 5}}, "did you mean max_model_len"),
        ({**SMALL, "args": {"model": "x"}}, "no engine argument 'model' to set here"),
        ({**SMALL, "cache_methods": ["shrink"]}, "unknown cache method 'shrink'"),
        ({**SMALL, "guides": {"g": "/no/guide"}}, "no such folder"),
        ({**SMALL, "args": {"kv_cache_memory_bytes": 1 << 50}}, "not enough memory"),
    ],
)
def test_what_cannot_be_started_is_said_in_one_line(engine: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        plan_engines(settings({"base": engine}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("logprobs_mode", "processed_logprobs"),
        ("logprobs_mode", "raw_logits"),
        ("data_parallel_size", 2),
        ("worker_extension_cls", "operators.Extension"),
        ("load_format", "runai_streamer"),
        ("load_format", "dummy"),
        ("load_format", "mistral"),
    ],
)
def test_what_an_engine_with_guides_cannot_have_is_refused(argument: str, value: Any) -> None:
    engine = {**SMALL, "guides": {"polite": "embedded:polite"}, "args": {argument: value}}
    with pytest.raises(ConfigError, match=f"engine base: {argument} cannot be combined with guides"):
        plan_engines(settings({"base": engine}))
    plan_engines(settings({"base": {**engine, "guides": {}}}))


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        locate(str(tmp_path))


def test_a_guide_or_engine_with_another_vocabulary_is_refused(other_vocabulary: Path) -> None:
    engines: dict[str, Any] = {"base": {**SMALL, "guides": {"odd": str(other_vocabulary)}}}
    with pytest.raises(ConfigError, match=r"guide odd of engine base.*another vocabulary"):
        plan_engines(settings(engines))
    with pytest.raises(ConfigError, match=r"engine odd.*another vocabulary"):
        plan_engines(settings({"base": SMALL, "odd": {"model": str(other_vocabulary)}}))
    plan_engines(settings({"base": {**SMALL, "guides": {"same": "embedded:polite"}}}))


def test_a_guides_tokenizer_is_read_as_its_engines(tmp_path: Path) -> None:
    folder = tmp_path / "coded"
    shutil.copytree(embedded.path("polite"), folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    path.write_text(json.dumps(config), encoding="utf-8")
    code = (
        "from transformers import PreTrainedTokenizerFast\n\nclass Own(PreTrainedTokenizerFast):\n    pass\n"
    )
    (folder / "own.py").write_text(code, encoding="utf-8")
    engine = {**SMALL, "guides": {"coded": str(folder)}}
    plan_engines(settings({"base": {**engine, "args": {"trust_remote_code": True}}}))
    with pytest.raises(ConfigError, match="guide coded of engine base"):
        plan_engines(settings({"base": engine}))


def test_a_hub_id_is_left_to_vllms_loader() -> None:
    assert locate("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert weight_bytes("Qwen/Qwen3-8B") == 0
    assert weight_bytes(str(embedded.path("small"))) > 1_000_000


def test_a_taken_port_is_said_before_anything_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="choose another --host or --port"):
            bind("127.0.0.1", taken.getsockname()[1])


def test_the_metrics_of_all_engines_stand_side_by_side() -> None:
    engines = EngineMetrics()
    for name, count in (("base", 2), ("small", 5)):
        Counter("vllm:tokens", "Tokens", registry=engines.registry(name)).inc(count)
    text = exposition(engines).decode()
    assert text.count("# TYPE vllm:tokens_total counter") == 1
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {
        s.labels["decant_engine"]: s.value
        for s in families["vllm:tokens"].samples
        if s.name.endswith("_total")
    }
    assert samples == {"base": 2, "small": 5}
    assert isinstance(engines.registry("base"), CollectorRegistry)


async def test_each_real_engine_counts_its_own_tokens(engine: DecodingEngine) -> None:
    for name, one in engine.engines.items():
        assert one.logger_manager is not None, name
    assert len({id(one.logger_manager) for one in engine.engines.values()}) == len(engine.engines)


def test_a_draft_model_is_planned_and_counted_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    draft = {"method": "draft_model", "model": "embedded:small"}
    (plan,) = plan_engines(settings({"base": {"model": "embedded:base", "speculative": draft}}))
    config = plan.arguments["speculative_config"]
    assert config["model"] == locate("embedded:small")
    weights = weight_bytes(locate("embedded:base")) + weight_bytes(locate("embedded:small"))
    cache = plan.arguments["kv_cache_memory_bytes"]

    def available(size: int) -> None:
        monkeypatch.setattr(
            "server.engines.psutil.virtual_memory", lambda: type("Memory", (), {"available": size})
        )

    args = {"kv_cache_memory_bytes": cache}
    table = {"base": {"model": "embedded:base", "speculative": draft, "args": args}}
    available(weights + cache)
    plan_engines(settings(table))
    available(weights + cache - 1)
    with pytest.raises(ConfigError, match="not enough memory"):
        plan_engines(settings(table))


def test_a_draft_model_of_another_vocabulary_is_refused(other_vocabulary: Path) -> None:
    draft = {"method": "adaptive_draft", "model": str(other_vocabulary)}
    with pytest.raises(ConfigError, match=r"speculative\.model of engine base: .* another vocabulary"):
        plan_engines(settings({"base": {"model": "embedded:base", "speculative": draft}}))


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ({"guides": {"polite": "embedded:polite"}}, "speculative cannot be combined with guides"),
        ({"args": {"speculative_config": {"method": "ngram"}}}, r"args\.speculative_config"),
        ({"speculative": {"method": "draft_model", "model": "embedded:huge"}}, "embedded:huge"),
    ],
)
def test_what_cannot_speculate_is_refused(engine: dict[str, Any], says: str) -> None:
    table = {"base": {"model": "embedded:base", "speculative": {"method": "ngram"}, **engine}}
    with pytest.raises(ConfigError, match=says):
        plan_engines(settings(table))


def test_no_code_of_a_model_is_trusted() -> None:
    """vLLM's defaults, which only the operator can change."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    for plan in plan_engines(ServeSettings(model=None)):
        arguments = AsyncEngineArgs(**plan.arguments)
        assert not arguments.trust_remote_code
        assert not arguments.enable_prompt_embeds
        assert not arguments.allowed_local_media_path
    trusting = plan_engines(settings({"a": {**SMALL, "args": {"trust_remote_code": True}}}))
    assert trusting[0].arguments["trust_remote_code"] is True


def test_grammars_are_compiled_by_xgrammar_unless_the_operator_says_otherwise() -> None:
    args = {"structured_outputs_config": {"backend": "guidance"}}
    plans = plan_engines(settings({"a": SMALL, "b": {**SMALL, "args": args}}))
    backends = [plan.arguments["structured_outputs_config"]["backend"] for plan in plans]
    assert backends == ["xgrammar", "guidance"]
