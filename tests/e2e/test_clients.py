"""The programs of examples/ as a user runs them: what of a request arrives, what of an answer comes back."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.client import KEY, Http
from tests.e2e.door import Door, door
from tests.e2e.process import ROOT, Decant

EXAMPLES = ROOT / "examples"
CLIENTS = Path(f"{sys.prefix}-clients") / "bin"  # made by `make clients`
NODE_MODULES = EXAMPLES / "openai-node/node_modules"

MESSAGES = [{"role": "user", "content": "Write a review of the hotel."}]
GENARM = {"logits": {"method": "genarm", "weights": {"polite": 1.0}}, "report": True}
ASKED: dict[str, Any] = {"messages": MESSAGES, "temperature": 0, "max_tokens": 64}
PRESET = {"model": "demo:ead", **ASKED}
FIELD = {"model": "demo", **ASKED, "decoding": GENARM}

PROGRAMS = {
    "openai, the server's own": [sys.executable, "openai-python/chat.py"],
    "openai": [str(CLIENTS / "python"), "openai-python/chat.py"],
    "langchain": [str(CLIENTS / "python"), "langchain/chat.py"],
    "litellm": [str(CLIENTS / "python"), "litellm/chat.py"],
}


@pytest.fixture(scope="module", autouse=True)
def clients() -> None:
    if not (CLIENTS / "python").exists():
        pytest.fail(f"no {CLIENTS.parent}: 'make clients' makes it")


@pytest.fixture
def way(server: Decant) -> Iterator[Door]:
    """The way to the server, on which what passes is kept."""
    with door(server.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(http: Http) -> dict[str, Any]:
    """What the API itself says; without its preset or field, each question would be answered otherwise."""
    preset = http.post_ok("chat", {**PRESET, "decoding": {"report": True}})
    field = http.post_ok("chat", FIELD)
    plain = http.post_ok("chat", {**FIELD, "decoding": {"report": True}})
    assert preset["decoding"]["sequence"]["method"] == "ead"
    assert field["decoding"]["logits"]["method"] == "genarm"
    assert "logits" not in plain["decoding"]
    texts = {name: content(answer) for name, answer in (("preset", preset), ("field", field))}
    assert texts["field"] != content(plain)
    return {**texts, "report": field["decoding"]}


def content(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def run(
    command: list[str], url: str, home: Path, key: str = KEY, **more: str
) -> subprocess.CompletedProcess[str]:
    """The command in examples/ with nothing of this process's environment but the way to programs."""
    environ = {
        "PATH": f"{CLIENTS}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else LiteLLM asks the network for prices
        **more,
    }
    return subprocess.run(
        command, cwd=EXAMPLES, env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def printed(done: subprocess.CompletedProcess[str]) -> list[tuple[str, Any]]:
    """The lines of a program by their names; reports are JSON."""
    assert done.returncode == 0, done.stderr
    lines = [line.split(": ", 1) for line in done.stdout.splitlines()]
    return [(name, json.loads(rest) if name == "report" else rest) for name, rest in lines]


def arrived(body: dict[str, Any]) -> dict[str, Any]:
    """A body without what clients add of their own; one name for a field that has two."""
    left = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
    if "max_completion_tokens" in left:
        left["max_tokens"] = left.pop("max_completion_tokens")
    return left


def check(done: subprocess.CompletedProcess[str], way: Door, expected: dict[str, Any]) -> None:
    assert printed(done) == [
        ("preset", expected["preset"]),
        ("field", expected["field"]),
        ("report", expected["report"]),
        ("stream", expected["field"]),
        ("report", expected["report"]),
    ]
    assert [arrived(body) for body in way.seen] == [PRESET, FIELD, FIELD]
    assert [body.get("stream", False) for body in way.seen] == [False, False, True]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_python_client_chooses_by_preset_and_by_field(
    way: Door, expected: dict[str, Any], tmp_path: Path, name: str
) -> None:
    check(run(PROGRAMS[name], way.url, tmp_path), way, expected)


def test_the_node_client_chooses_by_preset_and_by_field(
    way: Door, expected: dict[str, Any], tmp_path: Path
) -> None:
    found = shutil.which("node")
    if not found or not (NODE_MODULES / "openai").is_dir():
        pytest.skip("needs Node.js 20 or later with npm: install it, then 'make clients'")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").split(".")[0]) < 20:
        pytest.skip(f"needs Node.js 20 or later, and this is {version.strip()}")
    check(run([found, "openai-node/chat.mjs"], way.url, tmp_path), way, expected)


def test_curl_chooses_by_preset_and_by_field(way: Door, expected: dict[str, Any], tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("needs curl: 'apt-get install curl'")
    done = run(["curl/chat.sh"], way.url, tmp_path)
    assert done.returncode == 0, done.stderr
    preset, field, *events = filter(None, done.stdout.splitlines())
    assert content(json.loads(preset)) == expected["preset"]
    assert content(json.loads(field)) == expected["field"]
    assert json.loads(field)["decoding"] == expected["report"]
    assert events.pop() == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected["field"]
    assert chunks[-1]["decoding"] == expected["report"]
    assert [arrived(body) for body in way.seen] == [PRESET, FIELD, FIELD]


def test_llm_chooses_by_preset(way: Door, http: Http, expected: dict[str, Any], tmp_path: Path) -> None:
    switched = http.metric("decant_tokens_total", method="ead")
    done = run(["llm/chat.sh"], way.url, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, expected["preset"]), done.stderr
    (body,) = way.seen
    assert body["stream"] is True
    assert arrived(body) == PRESET
    assert http.metric("decant_tokens_total", method="ead") > switched


def test_llm_takes_the_models_of_its_file(
    way: Door, http: Http, expected: dict[str, Any], tmp_path: Path
) -> None:
    text = (EXAMPLES / "llm/extra-openai-models.yaml").read_text(encoding="utf-8")
    models = tmp_path / "extra-openai-models.yaml"
    models.write_text(text.replace("http://127.0.0.1:8000", way.url), encoding="utf-8")
    place = {"LLM_USER_PATH": str(tmp_path)}
    assert run(["llm", "keys", "set", "decant", "--value", KEY], way.url, tmp_path, **place).returncode == 0
    question = ["-o", "temperature", "0", "-o", "max_tokens", "64", MESSAGES[0]["content"]]
    done = run(["llm", "-m", "decant-polite", *question], way.url, tmp_path, key="none", **place)
    assert (done.returncode, done.stdout.strip()) == (0, expected["field"]), done.stderr
    assert [body["model"] for body in way.seen] == ["demo:polite"]
    offered = {model["id"] for model in http.get("/v1/models").json()["data"]}
    assert {model["model_name"] for model in yaml.safe_load(text)} <= offered


def test_llm_has_no_way_for_the_field(way: Door, tmp_path: Path) -> None:
    """As examples/README.md says; should it get one, the example is to show it."""
    option = ["-o", "decoding", json.dumps(GENARM)]
    done = run(["llm", "openai", "endpoint", f"{way.url}/v1", "-m", "demo", *option, "hi"], way.url, tmp_path)
    assert done.returncode == 1
    assert "Extra inputs are not permitted" in done.stderr
    assert not way.seen


def test_a_wrong_key_and_an_unknown_method_are_said(server: Decant, tmp_path: Path) -> None:
    """A program shows the server's own words for what it refuses."""
    done = run(PROGRAMS["openai"], server.url, tmp_path, key="wrong")
    assert done.returncode == 1
    assert "API key" in done.stderr
    program = tmp_path / "chat.py"
    text = (EXAMPLES / "openai-python/chat.py").read_text(encoding="utf-8")
    program.write_text(text.replace('"genarm"', '"genarn"'), encoding="utf-8")
    done = run([str(CLIENTS / "python"), str(program)], server.url, tmp_path)
    assert done.returncode == 1
    assert "decoding.logits.method" in done.stderr


def test_the_table_names_the_locked_versions() -> None:
    lock = (ROOT / "requirements/clients.txt").read_text(encoding="utf-8")
    pins = dict(line.split("==") for line in lock.splitlines() if "==" in line)
    server = (ROOT / "requirements/cpu.txt").read_text(encoding="utf-8")
    node = json.loads((EXAMPLES / "openai-node/package-lock.json").read_text(encoding="utf-8"))
    own = re.search(r"^openai==(\S+)$", server, re.M)
    assert own
    rows = [
        line.split("|")[1:3]
        for line in (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| [")
    ]
    tested = {re.sub(r"\]\(.*|\[", "", name).strip(): version.strip() for name, version in rows}
    assert tested.keys() == {"openai, Python", "openai, Node.js", "LangChain", "LiteLLM", "curl", "llm"}
    assert tested["openai, Python"] == f"{pins['openai']}, {own[1]}"
    assert tested["openai, Node.js"] == node["packages"]["node_modules/openai"]["version"]
    assert tested["LangChain"] == f"langchain-openai {pins['langchain-openai']}"
    assert tested["LiteLLM"] == pins["litellm"]
    assert tested["llm"] == pins["llm"]
