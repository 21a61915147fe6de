from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from server.auth import KeyRing
from server.config import ConfigError, ServeSettings, check_variables, use_config_file


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for variable in [name for name in os.environ if name.startswith("DECANT_")]:
        monkeypatch.delenv(variable)
    use_config_file(None)


def parse(*flags: str) -> ServeSettings:
    return CliApp.run(ServeSettings, cli_args=list(flags))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def accepts(settings: ServeSettings, *keys: str) -> bool:
    """Whether these are all the keys there are."""
    ring = KeyRing(settings.known_keys())
    return len(settings.known_keys()) == len(keys) and all(ring.name_of(key.encode()) for key in keys)


def test_flags_beat_variables_beat_the_file_beats_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_config_file(write(tmp_path / "c.yaml", "port: 1\nlimits: {n: 1, logprobs: 1}\nlog_level: error\n"))
    assert (parse().port, parse().limits.n, parse().log_level) == (1, 1, "error")
    monkeypatch.setenv("DECANT_PORT", "2")
    monkeypatch.setenv("DECANT_LIMITS__N", "2")
    assert (parse().port, parse().limits.n, parse().limits.logprobs) == (2, 2, 1)
    assert parse("--port", "3", "--limits.n", "3").port == 3
    assert parse("--limits.n", "3").limits.model_dump(include={"n", "logprobs"}) == {"n": 3, "logprobs": 1}


def test_without_a_model_the_embedded_family_is_served() -> None:
    settings = parse()
    assert settings.is_embedded
    assert settings.model_name() == "demo"
    assert {name: engine.model for name, engine in settings.engine_table().items()} == {
        "base": "embedded:base",
        "small": "embedded:small",
    }
    assert settings.engine_table()["base"].guides == {"polite": "embedded:polite", "brief": "embedded:brief"}
    assert "demo:small" in settings.preset_table()


def test_a_model_is_served_under_its_own_name_or_the_one_given() -> None:
    assert parse("Qwen/Qwen3-8B").model_name() == "Qwen/Qwen3-8B"
    assert parse("Qwen/Qwen3-8B", "--served-model-name", "q").model_name() == "q"
    assert list(parse("Qwen/Qwen3-8B").engine_table()) == ["base"]
    assert parse("Qwen/Qwen3-8B").preset_table() == {}


def test_engine_arguments_from_flags_have_their_types() -> None:
    settings = parse(
        "--engine-args", "max-model-len=4096", "--engine-args", "dtype=float32,enforce_eager=true"
    )
    assert settings.engine_args == {"max_model_len": 4096, "dtype": "float32", "enforce_eager": True}


def test_engines_and_presets_from_a_file(tmp_path: Path) -> None:
    text = """
engines:
  big: {model: a/b, args: {max_model_len: 512}}
  tiny: {model: a/c}
default_engine: tiny
presets:
  quick: {decoding: {sequence: {method: plain, engine: tiny}}, description: fast}
"""
    use_config_file(write(tmp_path / "c.yaml", text))
    settings = parse()
    assert settings.default_engine_name() == "tiny"
    assert settings.model_name() == "a/c"
    assert settings.preset_table()["a/c:quick"].decoding.sequence.engine == "tiny"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("prot: 1", "prot"),
        ("limits: {nn: 1}", "limits.nn"),
        ("engines: {a: {model: x, modle: y}}", "engines.a.modle"),
        ("presets: {a: {decoding: {sequence: {method: nope}}}}", "presets.a.decoding.sequence"),
        ("limits: {n: 0}", "limits.n"),
        ("engines: {'a b': {model: x}}", "engines.a b.[key]"),
    ],
)
def test_unknown_keys_and_bad_values_are_errors_that_name_the_key(
    tmp_path: Path, text: str, where: str
) -> None:
    use_config_file(write(tmp_path / "c.yaml", text))
    with pytest.raises(ValidationError) as caught:
        parse()
    assert where in [".".join(map(str, error["loc"])) for error in caught.value.errors()]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--host", "0.0.0.0"], "no API key"),
        (["m", "--engines", '{"a": {"model": "x"}}'], "not both"),
        (["--default-engine", "huge"], "base, small"),
        (["--api-keys-file", "/no/such/file"], "cannot be read"),
        (["--port", "70000"], "65535"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(flags: list[str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        parse(*flags)


def test_beyond_loopback_with_a_key_or_on_purpose() -> None:
    assert accepts(parse("--host", "0.0.0.0", "--api-keys", "k"), "k")
    assert parse("--host", "0.0.0.0", "--allow-no-api-key").known_keys() == []


def test_keys_come_from_settings_and_file(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "# ours\nalpha\n\nbeta # of the lab\n")
    settings = parse("--api-keys", "one,two", "--api-keys-file", str(path))
    assert accepts(settings, "one", "two", "alpha", "beta")


def test_keys_are_not_shown() -> None:
    settings = parse("--api-keys", "sesame")
    assert "sesame" not in repr(settings)
    assert "sesame" not in repr(vars(settings) | (settings.__pydantic_private__ or {}))
    assert not settings.api_keys


def test_keys_have_names_and_limits_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "lab alpha # of the lab\nbeta\n")
    flags = ["--api-keys-file", str(path), "--key-limits.tokens-per-minute", "1000"]
    settings = parse(*flags, "--limits-by-key", '{"lab": {"concurrent_requests": 2}}')
    assert [key.name for key in settings.known_keys()] == ["lab", "key-2"]
    assert settings.key_limits.tokens_per_minute == 1000
    assert settings.limits_by_key["lab"].concurrent_requests == 2
    with pytest.raises(ValidationError, match="no API key has the name bal"):
        parse(*flags, "--limits-by-key", '{"bal": {}}')


@pytest.mark.parametrize(
    "origin", ["*", "null", "https://x/", "https://x/path", "HTTPS://x", "https://*.x", "x.org"]
)
def test_an_origin_is_exactly_one(origin: str) -> None:
    with pytest.raises(ValidationError):
        parse("--cors-origins", f"https://good.example:8443,{origin}")


def test_a_variable_that_sets_nothing_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"DECANT_PROT.*DECANT_PORT"):
        check_variables({"DECANT_PROT": "1"})
    check_variables({"DECANT_LIMITS__N": "1", "DECANT_PORT": "1", "OTHER": "x"})


def test_a_missing_configuration_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        use_config_file(tmp_path / "none.yaml")


def test_lists_may_be_written_with_commas_or_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECANT_API_KEYS", "one, two")
    assert accepts(parse(), "one", "two")
    monkeypatch.setenv("DECANT_API_KEYS", '["a,b", "c"]')
    assert accepts(parse(), "a,b", "c")
    assert parse("--cors-origins", "http://x,http://y").cors_origins == ["http://x", "http://y"]


def test_keys_that_are_none_are_an_error_and_not_an_open_door(tmp_path: Path) -> None:
    empty = write(tmp_path / "keys", "# none yet\n\n")
    for flags in (["--api-keys-file", str(empty)], ["--api-keys", ""]):
        with pytest.raises(ValidationError, match="holds no key"):
            parse(*flags)


def test_keys_are_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "a#b\n")
    settings = parse("--host", "0.0.0.0", "--api-keys-file", str(path))
    path.unlink()
    assert accepts(settings, "a#b")


@pytest.mark.parametrize("text", ["port: [", "just text", "- a\n- b"])
def test_a_file_that_holds_no_settings_is_an_error_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="config: ") as caught:
        use_config_file(write(tmp_path / "c.yaml", text))
    assert "\n" not in str(caught.value)


def test_a_folder_is_served_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    assert parse(str(tmp_path / "my-model")).model_name() == "my-model"


@pytest.mark.parametrize("seconds", ["inf", "nan", "-1"])
def test_a_deadline_is_finite(seconds: str) -> None:
    with pytest.raises(ValidationError):
        parse("--drain-seconds", seconds)


def test_what_the_operator_set_beats_what_the_environment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from server.environment import prepare

    for name in ("OMP_NUM_THREADS", "VLLM_LOGGING_LEVEL", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "kept")
    prepare(1, 3, "info", 4, chosen={"OMP_NUM_THREADS"})
    import os

    held = [os.environ[name] for name in ("OMP_NUM_THREADS", "VLLM_LOGGING_LEVEL", "OMP_WAIT_POLICY")]
    assert held == ["3", "kept", "kept"]


def test_speculation_of_the_one_model_by_flag_and_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    given = '{"method": "ngram", "num_speculative_tokens": 3}'
    speculative = parse("m", "--speculative", given).engine_table()["base"].speculative
    assert speculative is not None
    assert (speculative.method, speculative.governor) == ("ngram", True)
    monkeypatch.setenv("DECANT_SPECULATIVE", given)
    assert parse("m").engine_table()["base"].speculative == speculative
    monkeypatch.delenv("DECANT_SPECULATIVE")
    assert parse("m").engine_table()["base"].speculative is None
    with pytest.raises(ValidationError, match="speculative goes with MODEL"):
        parse("--speculative", given)
    with pytest.raises(ValidationError, match="num_speculative_tokens"):
        parse("m", "--speculative", '{"method": "ngram", "num_speculative_tokens": 0}')
