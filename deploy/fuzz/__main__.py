"""Fuzz `decant serve` by its own OpenAPI document: `.venv/bin/python -m deploy.fuzz --help`."""

import argparse
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from deploy.fuzz.campaign import KINDS, Tally, Target, fuzz
from deploy.fuzz.pools import fill
from deploy.fuzz.report import Run, markdown
from deploy.loadtest.memory import growth, resident
from deploy.loadtest.servers import Failure, Server, embedded_models

# Limits that let every request end soon, and that generated ones reach.
LIMITS = {"max-tokens": 6, "n": 2, "sequences": 4, "candidates": 4, "body-bytes": 100_000}
# Caches of the engines that would fill for as long as any run lasts, since nearly every schema and number of
# tokens in it is new: compiled grammars (in MiB; vLLM keeps 512), and kernels of oneDNN (which keeps 1024).
ENVIRONMENT = {"VLLM_XGRAMMAR_CACHE_MB": "8", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
GOLDEN = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is the capital of Tovand?"}],
    "max_tokens": 6,
    "temperature": 0,
}
ROUND = 150  # examples an operation in one round
WARM_UP = 20


def flags(key: str) -> list[str]:
    """The server's: one key, and `LIMITS`."""
    limits = [part for name, most in LIMITS.items() for part in (f"--limits.{name}", str(most))]
    return ["--api-keys", key, *limits]


def target_of(url: str, key: str) -> Target:
    """What a server says of itself. Errors: httpx's where it does not answer."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as client:

        def ask(path: str) -> Any:
            return client.get(path, timeout=30).raise_for_status().json()

        methods = ask("/v1/decoding/methods")
        return Target(
            url=url,
            key=key,
            document=ask("/openapi.json"),
            models=[model["id"] for model in ask("/v1/models")["data"]],
            engines=list(methods["engines"]),
            guides=methods["engines"][methods["default_engine"]]["guides"],
        )


def golden(target: Target) -> Any:
    """The choices that the golden request is answered with; the error if there is none."""
    headers = {"Authorization": f"Bearer {target.key}"}
    url = f"{target.url}/v1/chat/completions"
    try:
        answer = httpx.post(url, json=GOLDEN, headers=headers, timeout=60, trust_env=False)
        return answer.raise_for_status().json()["choices"]
    except httpx.HTTPError as error:
        return repr(error)


def answers(server: Server) -> bool:
    """Whether the server is there and says that it is well."""
    if server.process.poll() is not None:
        return False
    try:
        return httpx.get(f"{server.url}/health", timeout=10, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def memory(server: Server) -> dict[str, int]:
    """`resident` of the server; nothing if it has ended."""
    try:
        return resident(server.process.pid) if server.process.poll() is None else {}
    except psutil.NoSuchProcess:
        return {}


def run(server: Server, target: Target, requests: int, seed: int) -> Run:
    """Send at least so many requests, in rounds of every kind, each with a seed of its own."""
    fill(target)
    warm = Tally()
    for kind in KINDS:  # what the first requests of a kind make the processes load is no growth
        fuzz(target, kind, WARM_UP, seed - 1, warm)
    expected = golden(target)
    before, start = memory(server), time.monotonic()
    tally = Tally()
    number = 0
    while tally.sent < requests and answers(server):
        for kind in KINDS:
            fuzz(target, kind, ROUND, seed + number, tally, coverage=number == 0)
        number += 1
        held = ", ".join(f"{name} {size >> 20} MiB" for name, size in memory(server).items())
        print(f"fuzz: {tally.sent} of {requests} requests; {held}", file=sys.stderr)
    alive, after = answers(server), memory(server)
    return Run(
        tally=tally,
        seed=seed,
        seconds=time.monotonic() - start,
        memory_before=before,
        memory_after=after,
        growth=growth(before, after),
        alive=alive,
        same_answer=alive and golden(target) == expected and isinstance(expected, list),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all well, 1 something was found, 2 the run could not be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000, help="at least so many requests (10000)")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds send equal requests (1)")
    parser.add_argument("--out", type=Path, help="file for the report, as Markdown")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    key = secrets.token_hex(16)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="fuzz-") as folder,
            embedded_models(Path(folder), "--log-level", "warning", *flags(key), **ENVIRONMENT) as server,
        ):
            done = run(server, target_of(server.url, key), options.requests, options.seed)
    except (Failure, httpx.HTTPError) as failure:
        print(f"fuzz: {failure}", file=sys.stderr)
        return 2
    report = markdown(done)
    print(report)
    if options.out:
        options.out.write_text(report, encoding="utf-8")
    missed = done.shortfalls()
    for line in missed:
        print(f"fuzz: {line.splitlines()[0]}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
