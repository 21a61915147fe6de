"""deploy/ray on a local Ray cluster: the surface of one server, and what a killed replica costs."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from server.models import EMBEDDED_ARGUMENTS
from tests.deploy.ray_cluster import Cluster, cluster, replicas_told
from tests.e2e.client import CHAT, KEY, TEXT
from tests.e2e.process import serving

HEADERS = {"Authorization": f"Bearer {KEY}"}
REPLICAS = 2
READY_AGAIN = 60.0  # seconds within which requests must be answered again after a replica was killed
# What tells one answer from another of the same request; the last says what the prefix cache held.
OWN = ("id", "created", "system_fingerprint", "prompt_tokens_details")
GUIDED = {"logits": {"method": "genarm", "weights": {"polite": 1.0}}}
SETTINGS = {  # one engine a replica, so that two cores suffice
    "served_model_name": "demo",
    "engines": {"base": {"model": "embedded:base", "guides": {"polite": "embedded:polite"}}},
    "engine_args": {**EMBEDDED_ARGUMENTS, "kv_cache_memory_bytes": 64 << 20},
    "presets": {"polite": {"decoding": GUIDED}},
    "tool_call_parser": "hermes",
}
LONG = {**TEXT, "temperature": 1, "ignore_eos": True, "max_tokens": 1500}

ASKED: dict[str, tuple[str, str, Any]] = {
    "schema": ("GET", "/openapi.json", None),
    "models": ("GET", "/v1/models", None),
    "model": ("GET", "/v1/models/demo:polite", None),
    "methods": ("GET", "/v1/decoding/methods", None),
    "health": ("GET", "/health", None),
    "ready": ("GET", "/ready", None),
    "version": ("GET", "/version", None),
    "index": ("GET", "/", None),
    "chat": ("POST", "/v1/chat/completions", CHAT),
    "text": ("POST", "/v1/completions", TEXT),
    "guided": ("POST", "/v1/completions", {**TEXT, "decoding": {**GUIDED, "report": True}}),
    "preset": ("POST", "/v1/chat/completions", {**CHAT, "model": "demo:polite"}),
    "seeded": ("POST", "/v1/completions", {**TEXT, "temperature": 1, "seed": 7, "n": 2}),
    "tokenize": ("POST", "/tokenize", {"model": "demo", "prompt": "The capital of"}),
    "unknown route": ("GET", "/nothing", None),
    "unknown method": ("DELETE", "/v1/models", None),
    "unknown model": ("POST", "/v1/completions", {**TEXT, "model": "nothing"}),
    "unknown field": ("POST", "/v1/completions", {**TEXT, "zqx": 1}),
    "bad value": ("POST", "/v1/completions", {**TEXT, "n": 0}),
    "no JSON": ("POST", "/v1/completions", "{"),
}


def _without_own(body: Any) -> Any:
    if isinstance(body, dict):
        return {k: _without_own(v) for k, v in body.items() if k not in OWN}
    return [_without_own(part) for part in body] if isinstance(body, list) else body


def answers(url: str) -> dict[str, Any]:
    """What a server says to ASKED, and to requests without a valid key."""
    said: dict[str, Any] = {}
    with httpx.Client(base_url=url, timeout=120) as http:
        for name, (method, path, body) in ASKED.items():
            content = body if isinstance(body, str) or body is None else json.dumps(body)
            headers = {**HEADERS, "Content-Type": "application/json"}
            response = http.request(method, path, content=content, headers=headers)
            is_page = response.headers["content-type"].startswith("text/html")
            said[name] = response.status_code, response.text if is_page else _without_own(response.json())
        for name, key in (("no key", {}), ("wrong key", {"Authorization": "Bearer x"})):
            for path in ("/v1/models", "/metrics", "/health"):
                response = http.get(path, headers=key)
                said[f"{name} {path}"] = response.status_code, response.json()
    return said


def streamed(url: str, path: str, body: dict[str, Any]) -> tuple[str, set[str], Any]:
    """Text, finish reasons and usage of a stream that ends as it should. Events may hold several tokens."""
    request = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with httpx.stream("POST", url + path, json=request, headers=HEADERS, timeout=120) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    choices = [choice for event in events for choice in event["choices"]]
    text = "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices)
    reasons = {choice["finish_reason"] for choice in choices if choice["finish_reason"]}
    return text, reasons, _without_own(events[-1]["usage"])


def streams(url: str) -> dict[str, Any]:
    return {
        "chat": streamed(url, "/v1/chat/completions", CHAT),
        "text": streamed(url, "/v1/completions", TEXT),
        "guided": streamed(url, "/v1/completions", {**TEXT, "decoding": GUIDED}),
    }


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"{KEY}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def alone(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one server says, stopped by now: engines of three would not fit on small machines."""
    folder: Path = tmp_path_factory.mktemp("alone")
    config = {**SETTINGS, "api_keys_file": str(keys)}
    (folder / "decant.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with serving(folder / "log", "--config", str(folder / "decant.yaml")) as server:
        return {"answers": answers(server.url), "streams": streams(server.url)}


@pytest.fixture(scope="module")
def served(alone: Any, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = {**SETTINGS, "api_keys_file": str(keys)}
    with cluster(tmp_path_factory.mktemp("ray"), settings) as running:
        running.wait_until_ready(REPLICAS, HEADERS)
        yield running


@pytest.mark.timeout(900)
def test_it_answers_as_one_server_does(alone: dict[str, Any], served: Cluster) -> None:
    for _ in range(REPLICAS):  # whichever replica it is
        said = answers(served.url)
        for name, expected in alone["answers"].items():
            assert said[name] == expected, name


@pytest.mark.timeout(900)
def test_it_streams_as_one_server_does(alone: dict[str, Any], served: Cluster) -> None:
    for _ in range(REPLICAS):
        assert streams(served.url) == alone["streams"]


@pytest.mark.timeout(900)
def test_a_stream_arrives_as_it_is_made(served: Cluster) -> None:
    request = {**LONG, "stream": True}
    with httpx.stream(
        "POST", f"{served.url}/v1/completions", json=request, headers=HEADERS, timeout=120
    ) as r:
        times = [time.monotonic() for line in r.iter_lines() if line]
    assert len({round(at, 2) for at in times}) > 20, "the answer came in a few pieces"


@pytest.mark.timeout(900)
def test_an_answer_carries_the_callers_id_once(served: Cluster) -> None:
    for path in ("/v1/models", "/nothing"):
        response = httpx.get(served.url + path, headers={**HEADERS, "X-Request-Id": "mine-1"}, timeout=30)
        assert response.headers.get_list("x-request-id") == ["mine-1"]


@pytest.mark.timeout(900)
def test_metrics_say_which_replica(served: Cluster) -> None:
    assert len(replicas_told(served.url, HEADERS)) == REPLICAS
    text = httpx.get(f"{served.url}/metrics", headers=HEADERS, timeout=30).text
    lines = text.splitlines()
    samples = [line.rsplit(" ", 1)[0] for line in lines if line and not line.startswith("#")]
    assert len(samples) == len(set(samples))
    assert all('replica="' in sample for sample in samples)
    families = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert len(families) == len(set(families))


@pytest.mark.timeout(900)
def test_a_client_that_leaves_frees_its_replica(served: Cluster) -> None:
    def in_flight() -> float:
        lines = httpx.get(f"{served.url}/metrics", headers=HEADERS, timeout=30).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("decant_requests_in_flight{"))

    request = {**LONG, "n": 8, "stream": True}
    with httpx.stream(
        "POST", f"{served.url}/v1/completions", json=request, headers=HEADERS, timeout=120
    ) as r:
        lines = r.iter_lines()  # kept: its end would close the connection
        next(lines)
        assert in_flight() == 1
    deadline = time.monotonic() + 20
    while in_flight():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def outcome(url: str, stream: bool) -> str:
    """'complete', 'refused' (503 in OpenAI's shape), 'told' (an error event ends it), or what else it was."""
    request = {**LONG, "stream": stream}
    try:
        with httpx.stream(
            "POST", f"{url}/v1/completions", json=request, headers=HEADERS, timeout=240
        ) as response:
            if response.status_code != 200:
                error = json.loads(response.read())["error"]
                known = response.status_code == 503 and error["code"] in ("replica_lost", "unavailable")
                return "refused" if known and "retry-after" in response.headers else str(error)
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return repr(error)
    if not stream:
        body = json.loads("".join(lines))
        return "complete" if body["usage"]["completion_tokens"] == LONG["max_tokens"] else str(body)
    if lines[-1] != "[DONE]":
        return f"broken off: {lines[-1][:200]}"
    last = json.loads(lines[-2])
    if "error" in last:
        return "told" if last["error"]["code"] == "replica_lost" else str(last)
    return "complete" if last["choices"][0]["finish_reason"] == "length" else str(last)


@pytest.mark.timeout(900)
def test_a_killed_replica_costs_only_its_requests_and_is_replaced(served: Cluster) -> None:
    before = replicas_told(served.url, HEADERS)
    with ThreadPoolExecutor(16) as pool:
        futures: list[Future[str]] = [pool.submit(outcome, served.url, bool(i % 2)) for i in range(16)]
        time.sleep(2)
        victim = served.replicas()[0]
        victim.kill()
        killed = time.monotonic()
        while (
            httpx.post(f"{served.url}/v1/completions", json=TEXT, headers=HEADERS, timeout=60).status_code
            != 200
        ):
            time.sleep(0.2)
        assert time.monotonic() - killed < READY_AGAIN
        outcomes = [future.result() for future in futures]
    assert set(outcomes) <= {"complete", "refused", "told"}, outcomes
    assert "complete" in outcomes
    assert set(outcomes) & {"refused", "told"}, "the killed replica ran nothing: this test shows nothing"
    served.wait_until_ready(REPLICAS, HEADERS)
    after = replicas_told(served.url, HEADERS)
    assert len(before & after) == REPLICAS - 1


@pytest.mark.timeout(900)
def test_its_end_ends_replicas_and_engines(served: Cluster) -> None:
    """Last: nothing is served afterwards."""
    ours = [*served.replicas(), *served.engines()]
    assert len(ours) == REPLICAS * 2
    left = served.stop()
    assert not set(left) & set(ours), [process.cmdline() for process in left]
