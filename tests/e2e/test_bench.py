"""`decant bench` against a real server: every layer, a run cut off and gone on with, and what is refused."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import ServeSettings
from server.embedded.recipe.items import items
from tests.e2e.client import KEY, Http, wait_for
from tests.e2e.door import door
from tests.e2e.process import COMMAND, Decant, environment
from tests.server.bench import harness_task

QUESTIONS = [item for kind in ("fact", "sum") for item in items(kind, "dev", 10)]
THREE = (
    {"name": "small", "decoding": {"sequence": {"method": "plain", "engine": "small"}}},
    {"name": "votes", "decoding": {"sequence": {"method": "majority", "candidates": 3}}},
    {"name": "half", "decoding": {"cache": {"method": "kvmerger", "budget": 0.5}}},
)


def command(state: Path, *flags: str) -> list[str]:
    return [str(COMMAND), "bench", "--state", str(state), "--max-tokens", "96", *flags]


def bench(state: Path, *flags: str, key: str | None = KEY) -> subprocess.CompletedProcess[str]:
    environ = environment() | ({"DECANT_API_KEY": key} if key else {})
    return subprocess.run(
        command(state, *flags), env=environ, capture_output=True, text=True, timeout=240, check=False
    )


def settings(*given: dict[str, Any]) -> list[str]:
    return [part for one in given for part in ("--setting", json.dumps(one))]


def answers(state: Path) -> list[dict[str, Any]]:
    content = state.read_text(encoding="utf-8") if state.exists() else ""
    entries = [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith("\n")]
    return [entry["answer"] for entry in entries if "answer" in entry]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty lines, of two matchers."""
    path = tmp_path_factory.mktemp("bench") / "mine.jsonl"
    lines = [
        {"prompt": item.prompt, "answer": item.answer}
        | ({"choices": list(item.choices)} if item.choices else {"matcher": "number"})
        for item in QUESTIONS
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def requests(http: Http) -> float:
    return http.metric("decant_requests_total", route="/v1/chat/completions", status="200")


def test_what_a_server_offers_is_compared_over_all_layers(server: Decant, http: Http, tmp_path: Path) -> None:
    found, plot = tmp_path / "found.json", tmp_path / "plot.svg"
    flags = ["--task", "code", "--limit", "1", "--url", server.url, "--json-out", str(found)]
    done = bench(tmp_path / "state", *flags, "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    result = json.loads(found.read_text(encoding="utf-8"))
    rows = {one["name"]: one for one in result["settings"]}
    assert len(rows) >= 10
    assert not result["refused"]
    assert {layer for one in rows.values() for layer in one["decoding"]} == {"sequence", "logits", "cache"}
    assert rows["plain"]["kv_kept"] == 1
    assert rows["snapkv 0.5"]["kv_kept"] < 0.7
    assert rows["majority 4"]["generated_tokens"] > 2 * rows["plain"]["generated_tokens"]
    assert rows["plain small"]["engines"] == {"small": 1.0}
    assert rows["equilibrium 4"]["computed_tokens"] > rows["majority 4"]["computed_tokens"]
    assert plot.read_bytes().startswith(b"<?xml")
    assert "engine-seconds, times plain's" in done.stdout
    assert "Take: " in done.stdout


def test_a_killed_run_goes_on_and_no_answer_is_asked_twice(
    server: Decant, http: Http, data: Path, tmp_path: Path
) -> None:
    state, total = tmp_path / "state", len(QUESTIONS) * 4
    flags = ["--url", server.url, "--data", str(data), *settings(*THREE)]
    with (tmp_path / "log").open("wb") as log:
        environ = environment() | {"DECANT_API_KEY": KEY}
        process = subprocess.Popen(command(state, *flags), env=environ, stdout=log, stderr=log)
    try:
        wait_for(lambda: len(answers(state)) > total // 4, 120, "a quarter of the answers is there")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    kept = answers(state)
    assert total // 4 < len(kept) < total
    wait_for(lambda: http.in_flight() == 0, 30, "the abandoned requests have ended")

    before = requests(http)
    found = tmp_path / "found.json"
    done = bench(state, *flags, "--json-out", str(found))
    assert done.returncode == 0, done.stderr
    assert f"holds {len(kept)} answers" in done.stderr
    assert requests(http) - before == total - len(kept) + 4  # and a warm-up of each setting
    everything = answers(state)
    assert everything[: len(kept)] == kept
    assert len({(one["setting"], one["question"]) for one in everything}) == len(everything) == total

    # The figures are those of the answers, judged by the items' own grading.
    for row in json.loads(found.read_text(encoding="utf-8"))["settings"]:
        mine = sorted(
            (one for one in everything if one["setting"] == row["name"]), key=lambda one: one["question"]
        )
        right = [float(QUESTIONS[one["question"]].is_right(one["text"])) for one in mine]
        assert row["scores"] == right, row["name"]
        assert row["quality"]["value"] == pytest.approx(sum(right) / len(right))
        assert row["generated_tokens"] == pytest.approx(sum(one["generated"] for one in mine) / len(mine))

    before = requests(http)
    again = bench(state, *flags)
    assert again.stdout == done.stdout
    assert requests(http) == before  # a complete run asks nothing
    other = bench(state, *flags, "--seed", "1")
    assert other.returncode == 1
    assert "is of another bench: seed was 0 and is 1" in other.stderr


def test_twenty_lines_give_a_choice_to_paste(server: Decant, http: Http, data: Path, tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    cheap = {"prompt": 0, "output": 10, "small": 1}
    flags = ["--url", server.url, "--data", str(data), *settings(*THREE[:1]), "--goal", "cost"]
    priced = ["--margin", "0.95", "--concurrency", "2", "--price", json.dumps(cheap), "--name", "mine"]
    done = bench(tmp_path / "state", *flags, *priced, "--write-preset", str(preset))
    assert done.returncode == 0, done.stderr
    assert "On the frontier, from the cheapest: small" in done.stdout
    assert "Take: small\nsmall is cheaper than plain decoding: it costs 0.1" in done.stdout
    body = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('  {"')))
    question = {"model": "demo", "messages": [{"role": "user", "content": QUESTIONS[0].prompt}]}
    assert http.post_ok("chat", {**question, **body, "max_tokens": 8})
    text = preset.read_text(encoding="utf-8")
    assert text.startswith("# Written by decant bench")
    served = ServeSettings(**yaml.safe_load(text)).preset_table()["demo:mine"].decoding
    assert served.model_dump(exclude_none=True)["sequence"] == THREE[0]["decoding"]["sequence"]
    assert f"  {text.splitlines()[-1].strip()}" in done.stdout


def test_a_setting_that_is_refused_is_reported_and_the_others_are_measured(
    server: Decant, data: Path, tmp_path: Path
) -> None:
    wrong = {"name": "wrong", "decoding": {"cache": {"method": "kvmerger", "budget": 7}}}
    done = bench(
        tmp_path / "state",
        "--url",
        server.url,
        "--data",
        str(data),
        "--limit",
        "2",
        *settings(wrong, THREE[0]),
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Refused: wrong: line 1: .*HTTP 400,\s+decoding\.cache\.budget", done.stdout)
    assert {one["setting"] for one in answers(tmp_path / "state")} == {"plain", "small"}


def plain_openai(method: str, path: str, body: Any) -> bool:
    """Knows OpenAI's API alone: no other route, no field it does not know."""
    if body:
        assert "cache_salt" not in body
        body.pop("decoding", None)
    return (method, path) in {("GET", "/v1/models"), ("POST", "/v1/chat/completions")}


def test_another_openai_server_is_asked_for_what_it_has(server: Decant, data: Path, tmp_path: Path) -> None:
    hot = {"name": "hot", "request": {"temperature": 1.2}}
    with door(server.url, plain_openai) as other:
        flags = ["--url", other.url, "--data", str(data), "--limit", "3"]
        unsaid = bench(tmp_path / "none", *flags)
        done = bench(tmp_path / "state", *flags, *settings(hot, THREE[1]))
    assert unsaid.returncode == 1
    assert "is no Decant server, so it does not say what it offers" in unsaid.stderr
    assert done.returncode == 0, done.stderr
    assert {one["setting"] for one in answers(tmp_path / "state")} == {"plain", "hot"}
    assert "Refused: votes: line 1: the server answers, but does not act on `decoding`" in done.stdout


def test_a_task_of_the_harness(server: Decant, tmp_path: Path) -> None:
    folder = harness_task.write(tmp_path, items("sum", "dev", 3))
    flags = ["--task", f"lm_eval:{harness_task.NAME}", "--harness-path", str(folder)]
    found = tmp_path / "found.json"
    done = bench(
        tmp_path / "state", "--url", server.url, *flags, *settings(THREE[0]), "--json-out", str(found)
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(found.read_text(encoding="utf-8"))
    assert (result["task"], result["measure"]) == (f"lm_eval: {harness_task.NAME}", "exact_match")
    for row in result["settings"]:
        mine = {one["question"]: one for one in answers(tmp_path / "state") if one["setting"] == row["name"]}
        right = [item.is_right(mine[i]["text"]) for i, item in enumerate(items("sum", "dev", 3))]
        assert row["scores"] == right


def test_the_price_of_no_engine_is_refused_before_anything_is_asked(
    server: Decant, data: Path, tmp_path: Path
) -> None:
    flags = ["--url", server.url, "--data", str(data), "--price", '{"output": 1, "tiny": 1}']
    done = bench(tmp_path / "state", *flags)
    assert done.returncode == 1
    assert "price: every name must be one of prompt, output, base, small" in done.stderr
    assert not answers(tmp_path / "state")


def test_a_wrong_key_is_said(server: Decant, data: Path, tmp_path: Path) -> None:
    done = bench(tmp_path / "state", "--url", server.url, "--data", str(data), key="wrong")
    assert done.returncode == 1
    assert "wants another API key" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.path.getsize(tmp_path / "state") < 1000  # nothing was asked
