"""Ranking and choosing against a real server: over sockets, with real clients, and from the command line."""

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import OpenAI

from decoders.request import DecodingRequest
from server.embedded.recipe.items import items
from tests.e2e.client import KEY, Http, connection, raw_post, together, wait_for
from tests.e2e.process import COMMAND, Decant, environment

QUESTION = "What is the capital of Tovand?"
ASK: dict[str, Any] = {"model": "demo", "prompt": QUESTION, "candidates": ["Vamburg", "Pesdal"]}
MAJORITY = {"sequence": {"method": "majority", "candidates": 5}, "report": True}


def test_a_ranking_over_http(http: Http) -> None:
    before = http.metric("decant_candidates_total", method="equilibrium")
    answer = http.post_ok("/v1/rank", ASK)
    assert answer["object"] == "ranking"
    assert sorted(one["index"] for one in answer["results"]) == [0, 1]
    assert http.metric("decant_candidates_total", method="equilibrium") == before + 2
    assert http.metric("decant_candidate_tokens_total", method="equilibrium", kind="scored") > 0
    assert http.post("/v1/rank", {**ASK, "candidates": ["a"]}).status_code == 400
    assert (
        http.session.post("/v1/rank", json=ASK, headers={"Authorization": "Bearer wrong"}).status_code == 401
    )


def test_rankings_at_the_same_time_are_those_alone(http: Http) -> None:
    asked = [
        {"prompt": item.prompt, "candidates": list(item.options)} for item in items("choice", "test", 16)
    ]
    alone = [http.post_ok("/v1/rank", body)["results"] for body in asked]
    many = together([lambda body=body: http.post_ok("/v1/rank", body)["results"] for body in asked])
    for one, other in zip(alone, many, strict=True):
        assert {r["index"]: r["logprobs"] for r in one} == {
            r["index"]: {label: pytest.approx(value, abs=1e-4) for label, value in r["logprobs"].items()}
            for r in other
        }


def test_the_openai_client_streams_the_chosen_answer(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 16,
        "temperature": 1.0,
        "seed": 3,
    }
    whole = client.chat.completions.create(**asked, extra_body={"decoding": MAJORITY})
    events = list(client.chat.completions.create(**asked, stream=True, extra_body={"decoding": MAJORITY}))
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == whole.choices[0].message.content
    report = whole.model_extra["decoding"]["sequence"] if whole.model_extra else {}
    assert report["candidates"][0]["text"] == text
    assert whole.usage is not None
    assert whole.usage.completion_tokens == report["tokens"]["base"] > len(text.split())


def test_methods_and_contract_are_listed(http: Http) -> None:
    listed = {one["method"]: one for one in http.get("/v1/decoding/methods").json()["layers"]["sequence"]}
    for name in ("equilibrium", "best_of_n", "majority", "mbr", "residual_ebm"):
        assert listed[name]["offered"]
        assert listed[name]["paper"]
    paths = http.get("/openapi.json").json()["paths"]
    assert "/v1/rank" in paths


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/rank"])
def test_a_client_that_leaves_ends_every_candidate(server: Decant, http: Http, path: str) -> None:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 1500,
        "ignore_eos": True,
        "decoding": {"sequence": {"method": "mbr", "candidates": 12}},
    }
    if path == "/v1/rank":
        body = {"prompt": "word " * 500, "candidates": [f"{i} " * 600 for i in range(48)]}
    left = http.metric("decant_requests_disconnected_total", route=path)
    with connection(http.address, raw_post(path, json.dumps(body).encode())) as sock:
        wait_for(lambda: http.running("base") > 0, 30, "a candidate runs")
        sock.shutdown(socket.SHUT_RDWR)
    began = time.monotonic()
    wait_for(lambda: http.running("base") == 0 and http.in_flight() == 0, 10, "all candidates have ended")
    assert time.monotonic() - began < 10
    assert http.metric("decant_requests_disconnected_total", route=path) == left + 1


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**environment(), "DECANT_API_KEY": KEY, "COLUMNS": "120"}
    return subprocess.run(
        [str(COMMAND), "rank", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_ranks_one_question(server: Decant, http: Http, tmp_path: Path) -> None:
    plot = tmp_path / "policies.svg"
    done = command(QUESTION, "Vamburg", "Pesdal", "--text", "--url", server.url, "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    first = http.post_ok("/v1/rank", ASK)["results"][0]["text"]
    row = next(
        line for line in done.stdout.splitlines() if "│ 1 │" in line.replace("  ", " ").replace("  ", " ")
    )
    assert first in row
    assert plot.stat().st_size > 5000
    shown = command(QUESTION, "Vamburg", "Pesdal", "--text", "--url", server.url, "--json")
    assert json.loads(shown.stdout)["results"][0]["text"] == first


def test_the_command_ranks_a_file(server: Decant, tmp_path: Path) -> None:
    drawn = items("choice", "test", 6)
    data, out = tmp_path / "questions.jsonl", tmp_path / "rankings.jsonl"
    lines = [{"prompt": one.prompt, "candidates": list(one.options), "answer": one.answer} for one in drawn]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    done = command("--data", str(data), "--out", str(out), "--url", server.url)
    assert done.returncode == 0, done.stderr
    rankings = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [one["line"] for one in rankings] == [1, 2, 3, 4, 5, 6]
    for item, one in zip(drawn, rankings, strict=True):
        assert {result["text"] for result in one["results"]} == set(item.options)
    hits = sum(one["results"][0]["text"] == item.answer for item, one in zip(drawn, rankings, strict=True))
    row = next(line for line in done.stderr.splitlines() if "er_d" in line)
    assert f"{hits / 6:.3f}" in row
    lines[2]["candidates"] = ["only one"]
    del lines[2]["answer"]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    failed = command("--data", str(data), "--url", server.url)
    assert failed.returncode == 1
    assert "line 3: the server answers HTTP 400, candidates" in failed.stderr


def test_a_conformal_calibration_and_its_preset(server: Decant, tmp_path: Path) -> None:
    drawn = [*items("fact", "dev", 16), *items("sum", "dev", 8)]
    data, preset = tmp_path / "facts.jsonl", tmp_path / "sets.yaml"
    lines = [{"prompt": one.prompt, "answer": one.answer} for one in drawn]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    flags = [
        "--data",
        str(data),
        "--match",
        "end",
        "--candidates",
        "4",
        "--max-tokens",
        "64",
        "--url",
        server.url,
    ]
    done = conformal(*flags, "--eps", "0.6", "--write-preset", str(preset), "--name", "sets")
    assert done.returncode == 0, done.stderr
    assert "at most 60.0% of the sets hold no acceptable answer, with probability 95.0%" in " ".join(
        done.stdout.split()
    )
    entry = yaml.safe_load(preset.read_text(encoding="utf-8"))["presets"]["sets"]["decoding"]["sequence"]
    method = DecodingRequest.model_validate({"sequence": entry}).sequence
    assert method.method == "conformal"
    assert method.calibration.questions == 12
    assert (
        entry
        == yaml.safe_load(done.stdout[done.stdout.index("sequence:") : done.stdout.index("The preset")])[
            "sequence"
        ]
    )
    strict = conformal(*flags, "--eps", "0.001")
    assert strict.returncode == 1
    assert "no thresholds could be shown" in strict.stderr


def conformal(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**environment(), "DECANT_API_KEY": KEY}
    return subprocess.run(
        [str(COMMAND), "calibrate", "conformal", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
