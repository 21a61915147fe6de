"""What cannot be served is said at once, in one line that names the setting, with exit status 2."""

import json
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from server import embedded
from tests.e2e.process import COMMAND, ROOT, environment

CPU_SECONDS = 15.0  # of the processor, so that a busy machine changes nothing
EMBEDDED = {"base": {"model": "embedded:base"}}


def refused(arguments: list[str], variables: Mapping[str, str] | None = None) -> str:
    """The one line `decant serve` leaves with, before it loads anything."""
    began = spent_by_children()
    line, errors = left(arguments, variables)
    assert "loading" not in errors
    assert spent_by_children() - began < CPU_SECONDS
    return line


def left(arguments: list[str], variables: Mapping[str, str] | None = None) -> tuple[str, str]:
    """The one line `decant serve` leaves with, and all it wrote to stderr."""
    done = subprocess.run(
        [str(COMMAND), "serve", *arguments],
        cwd=ROOT,
        env={**environment(keep=()), "HF_HUB_OFFLINE": "1", **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 2, done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("decant")]
    assert len(lines) == 1, done.stderr[-3000:]
    assert done.stderr.splitlines()[-1] == lines[0]
    assert "Traceback" not in done.stderr
    return lines[0], done.stderr


def spent_by_children() -> float:
    """Processor seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def written(folder: Path, name: str, content: object) -> str:
    path = folder / name
    path.write_text(
        content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
    )  # JSON is YAML
    return str(path)


# ---- settings: refused before anything is imported -------------------------------------------------------

SETTINGS: dict[str, tuple[list[str], str]] = {
    "unknown flag": (["--no-such-flag", "1"], "no-such-flag"),
    "unknown limit": (["--limits.no-such-limit", "1"], "no-such-limit"),
    "port out of range": (["--port", "70000"], "port"),
    "port is text": (["--port", "eighty"], "port"),
    "other host without a key": (["--host", "0.0.0.0"], "api_keys"),
    "all addresses of IPv6 without a key": (["--host", "::"], "api_keys"),
    "unknown log level": (["--log-level", "loud"], "log_level"),
    "limit below one": (["--limits.n", "0"], "limits.n"),
    "negative drain": (["--drain-seconds", "-1"], "drain_seconds"),
    "no such config file": (["--config", "no-such-file.yaml"], "config"),
    "no such keys file": (["--api-keys-file", "no-such-file"], "api_keys_file"),
    "unknown default engine": (["--default-engine", "tiny"], "default_engine"),
    "model and engines": (["some/model", "--engines", json.dumps(EMBEDDED)], "engines"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_setting(name: str) -> None:
    arguments, setting = SETTINGS[name]
    assert setting in refused(arguments)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"no_such_key": 1}, "no_such_key"),
        ({"limits": {"no_such_limit": 1}}, "limits.no_such_limit"),
        ({"engines": {"base": {"model": "embedded:base", "speed": 1}}}, "engines.base.speed"),
        (
            {"presets": {"fast": {"decoding": {"sequence": {"method": "no_such"}}}}},
            "presets.fast.decoding.sequence",
        ),
        ("port: [", "config"),
        ("just text", "config"),
    ],
    ids=[
        "unknown key",
        "unknown nested key",
        "unknown engine key",
        "unknown method",
        "no YAML",
        "no mapping",
    ],
)
def test_a_wrong_config_file(tmp_path: Path, content: object, named: str) -> None:
    assert named in refused(["--config", written(tmp_path, "config.yaml", content)])


@pytest.mark.parametrize("variable", ["DECANT_PROT", "DECANT_LIMITS__NO_SUCH_LIMIT"])
def test_a_variable_that_sets_nothing(variable: str) -> None:
    assert variable.removeprefix("DECANT_").lower().replace("__", ".") in refused([], {variable: "1"}).lower()


# ---- what can only be known with the models at hand ------------------------------------------------------


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(["--port", str(port)])
    assert f"127.0.0.1:{port}" in line
    assert "--port" in line


@pytest.mark.parametrize("model", ["no-such-owner/no-such-model", "./no/such/folder"])
def test_a_model_that_is_not_there(model: str) -> None:
    line = refused([model, "--port", "0"])
    assert "model" in line
    assert model in line


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    line = refused([str(tmp_path), "--port", "0"])
    assert "config.json" in line


def test_an_engine_argument_vllm_does_not_have() -> None:
    line = refused(["--engine-args", '{"max_model_length": 64}', "--port", "0"])
    assert "max_model_length" in line
    assert "max_model_len?" in line


def with_another_vocabulary(folder: Path) -> str:
    """The embedded small model with two of its tokens' ids exchanged."""
    copy = folder / "other"
    shutil.copytree(embedded.path("small"), copy)
    tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (copy / "tokenizer.json").unlink()
    written(copy, "tokenizer.json", tokenizer)
    return str(copy)


@pytest.mark.parametrize("role", ["engine", "guide"])
def test_another_vocabulary(tmp_path: Path, role: str) -> None:
    other = with_another_vocabulary(tmp_path)
    if role == "engine":
        engines: dict[str, object] = {**EMBEDDED, "stranger": {"model": other}}
    else:
        engines = {"base": {"model": "embedded:base", "guides": {"stranger": other}}}
    line = refused(["--config", written(tmp_path, "config.yaml", {"engines": engines, "port": 0})])
    assert f"{role} stranger" in line
    assert "vocabulary" in line


@pytest.mark.parametrize(
    ("decoding", "named"),
    [
        ({"logits": {"method": "genarm", "weights": {"rude": 1.0}}}, "logits.weights"),
        ({"sequence": {"method": "plain", "engine": "huge"}}, "sequence.engine"),
    ],
)
def test_a_preset_that_no_engine_can_serve(tmp_path: Path, decoding: dict[str, object], named: str) -> None:
    content = {"presets": {"bad": {"decoding": decoding}}, "port": 0}
    line, _ = left(["--config", written(tmp_path, "config.yaml", content)])
    assert f"presets.bad.decoding.{named}: " in line


def test_more_memory_than_there_is() -> None:
    line = refused(["--engine-args", json.dumps({"kv_cache_memory_bytes": 1 << 50}), "--port", "0"])
    assert "memory" in line
    assert "kv_cache_memory_bytes" in line


# ---- what is found out beside the engines ----------------------------------------------------------------


def test_traces_without_opentelemetry(tmp_path: Path) -> None:
    """An installation without the extra `otel` hears of it before models load."""
    exporter = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    written(tmp_path, "sitecustomize.py", f"import sys\nsys.modules[{exporter!r}] = None\n")
    line = refused(["--otlp-endpoint", "http://127.0.0.1:4318", "--port", "0"], {"PYTHONPATH": str(tmp_path)})
    assert "otlp_endpoint" in line
    assert "'otel'" in line


FAILS_AFTER_LOADING = """
import asyncio

import psutil

from server.cli import set_up
from server.config import ServeSettings
from server.models import EMBEDDED_ARGUMENTS


def cores():
    children = psutil.Process().children(recursive=True)
    return [p for p in children if "EngineCore" in " ".join([p.name(), *p.cmdline()])]


async def main(settings):
    from server import assembly

    running = []

    def fails(*arguments):
        running.extend(cores())
        raise RuntimeError("cannot be described")

    assembly.describe = fails
    try:
        await assembly.assemble(settings)
    except RuntimeError as error:
        _, left = psutil.wait_procs(running, timeout=20)
        print(f"{error}: {len(running)} ran, {len(left)} left")


if __name__ == "__main__":
    settings = ServeSettings(engines={"small": {"model": "embedded:small"}}, engine_args=EMBEDDED_ARGUMENTS)
    set_up(settings)
    asyncio.run(main(settings))
"""


def test_engines_end_where_what_follows_their_start_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, written(tmp_path, "script.py", FAILS_AFTER_LOADING)],
        cwd=ROOT,
        env={**environment(keep=()), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert "cannot be described: 1 ran, 0 left\n" in done.stdout, done.stderr[-3000:]
