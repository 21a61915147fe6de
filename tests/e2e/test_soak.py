"""Mixed traffic for a while: memory stays flat, and afterwards nothing is left of it.

SOAK_SECONDS=600 makes it the ten minutes that a release is given (`make soak`).
"""

import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.client import CHAT, TEXT, Http, connection, raw_post, wait_for
from tests.e2e.process import Decant, serving

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
WARM = 0.4  # of the time, before memory counts
CLIENTS = 6
MIB = 1 << 20
FLAT = 24 * MIB + 0.03 * MIB * max(0.0, SECONDS - 60)  # growth of one process that allocators may show
SAMPLED = {**TEXT, "temperature": 1, "ignore_eos": True, "max_tokens": 40}
LONG_PROMPT = "The hotel had a pool and the food was good. " * 30
EAD = {"method": "ead", "threshold": 1.0, "window": 2, "dwell": 1}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("text", {**SAMPLED, "n": 2}),
    "small": ("text", {**SAMPLED, "model": "demo:small", "logprobs": 3}),
    "chat": ("chat", {**CHAT, "max_tokens": 24}),
    "ead": ("text", {**SAMPLED, "decoding": {"sequence": EAD, "report": True}}),
    "traced": ("text", {**SAMPLED, "decoding": {"sequence": {**EAD, "trace": True}, "report": True}}),
    "candidates": ("text", {**SAMPLED, "decoding": {"sequence": {"method": "majority", "candidates": 4}}}),
    "guided": (
        "text",
        {
            **SAMPLED,
            "decoding": {"logits": {"method": "genarm", "weights": {"polite": 1.0}}, "report": True},
        },
    ),
    "cache": (
        "text",
        {
            **SAMPLED,
            "prompt": LONG_PROMPT,
            "decoding": {"cache": {"method": "kvmerger", "budget": 0.5}, "report": True},
        },
    ),
    "grammar": ("chat", {**CHAT, "response_format": {"type": "json_object"}, "max_tokens": 16}),
    "refused": ("text", {**TEXT, "n": 0}),
}


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    log: Path = tmp_path_factory.mktemp("soaked") / "log"
    with serving(log) as server:
        yield server


def send(http: Http, kind: str, chance: random.Random) -> None:
    route, body = KINDS[kind]
    body = {**body, "seed": chance.randrange(1 << 30)} if kind != "refused" else body
    match chance.choice(("whole", "stream", "left")):
        case _ if kind == "refused":
            assert http.post(route, body).status_code == 400
        case "whole":
            http.post_ok(route, body)
        case "stream":
            http.stream(route, body)
        case "left":
            data = raw_post(f"/v1/{'chat/' if route == 'chat' else ''}completions", json.dumps(body).encode())
            with connection(http.address, data):
                time.sleep(chance.uniform(0, 0.3))


def client(url: str, until: float, seed: int) -> Counter[str]:
    """Requests one after the other until the time is up; how many of each kind."""
    chance, sent = random.Random(seed), Counter[str]()
    with httpx.Client(base_url=url, timeout=120) as session:
        http = Http(session)
        while time.monotonic() < until:
            kind = chance.choice(list(KINDS))
            send(http, kind, chance)
            sent[kind] += 1
    return sent


def memory(processes: list[psutil.Process], until: float) -> list[list[int]]:
    """Resident bytes of each process, looked at again and again."""
    looks = []
    while time.monotonic() < until:
        looks.append([process.memory_info().rss for process in processes])
        time.sleep(min(1.0, SECONDS / 60))
    return looks


@pytest.mark.timeout(SECONDS + 300)
def test_mixed_traffic_leaves_nothing_behind(soaked: Decant) -> None:
    process = psutil.Process(soaked.pid)
    watched = [process, *soaked.engine_cores()]
    with httpx.Client(base_url=soaked.url, timeout=120) as session:
        http = Http(session)
        for kind in KINDS:  # what is loaded or compiled at the first request of its kind stays
            for _ in range(3):
                send(http, kind, random.Random(kind))
        rest = resources(http, process)
        until = time.monotonic() + SECONDS
        with ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(client, soaked.url, until, seed) for seed in range(CLIENTS)]
            looks = memory(watched, until)
            sent = sum((one.result() for one in running), Counter[str]())
        assert sent.keys() == KINDS.keys(), sent
        warm = looks[int(len(looks) * WARM) :]
        third = max(1, len(warm) // 3)
        for index, one in enumerate(watched):
            sizes = [look[index] for look in warm]
            growth = statistics.median(sizes[-third:]) - statistics.median(sizes[:third])
            assert growth < FLAT, (one.name(), [size // MIB for size in sizes])
        wait_for(lambda: http.in_flight() == 0, 30, "all requests have ended")
        for engine in ("base", "small"):  # a step that sees what the last ones left
            wait_for(lambda engine=engine: unfinished(http, engine) == 0, 20, "the engine has ended all")
            http.post_ok("text", {**TEXT, "decoding": {"sequence": {"method": "plain", "engine": engine}}})
            for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
                assert http.metric(f"vllm:{name}", decant_engine=engine) == 0, name
        wait_for(lambda: resources(http, process) <= rest, 20, f"back to {rest}: {resources(http, process)}")
        assert http.get("/health").json()["status"] == "ok"


def unfinished(http: Http, engine: str) -> float:
    return http.metric("decant_engine_requests", engine=engine)


class Resources(tuple[float, ...]):
    """Files, threads and tasks; no more than others if none of them is."""

    def __le__(self, other: object) -> bool:
        assert isinstance(other, Resources)
        return all(mine <= theirs for mine, theirs in zip(self, other, strict=True))


def resources(http: Http, process: psutil.Process) -> Resources:
    return Resources((process.num_fds(), process.num_threads(), http.metric("decant_tasks")))
