"""Decant against vLLM's own server: one model, one machine, one run, interleaved rounds compared in pairs.

Run from the repository root: `.venv/bin/python deploy/loadtest/compare.py --help`. The README beside this
file says what is measured and how to read it.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx

EMBEDDED = Path(__file__).resolve().parents[2] / "server" / "embedded" / "base"
SERVED = "loadtest"
DECANT, VLLM = "decant", "vllm"
LEAST_THROUGHPUT, MOST_TTFT = 0.98, 1.05  # what --check asks of the median ratios
START_SECONDS, STOP_SECONDS, ROUND_SECONDS = 300.0, 20.0, 600.0

# What both engines run with; Decant's own arguments for its embedded models.
ENGINE_ARGS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 2048,
    "max_num_seqs": 64,
    "block_size": 32,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 256 << 20,
    "enable_prefix_caching": True,
    "max_logprobs": 20,
    "distributed_executor_backend": "uni",
}
# What Decant sets for itself (server/environment.py), here given to both.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
WORDS = [
    "river",
    "stone",
    "lamp",
    "garden",
    "winter",
    "bread",
    "letter",
    "window",
    "copper",
    "harbour",
    "music",
    "road",
    "paper",
    "summer",
    "engine",
    "cloud",
    "market",
    "silver",
    "forest",
    "table",
    "bridge",
    "morning",
    "story",
    "village",
    "candle",
    "ocean",
    "number",
    "apple",
    "shadow",
    "field",
]


class Failure(Exception):
    """The comparison cannot be made or is not valid; nothing was measured that may be reported."""


# ---- servers ---------------------------------------------------------------------------------------------


@dataclass
class Server:
    """One server process, the leader of its own process group."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 30) -> str:
        """The end of the server's log."""
        text = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"---- the end of {self.name}'s log ----", *text[-lines:]])

    def wait_ready(self) -> None:
        """Return when /health answers 200. Errors: Failure if the server exits or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure(f"{self.name} exited with status {self.process.returncode} while starting")
            try:
                if httpx.get(f"{self.url}/health", timeout=2, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.3)
        raise Failure(f"{self.name} was not ready after {START_SECONDS:.0f} s")

    def stop(self) -> None:
        """Ask the server to end, wait a while, then kill whatever is left of its group."""
        with suppress(subprocess.TimeoutExpired):
            self.process.terminate()
            self.process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def environment(name: str, threads: int) -> dict[str, str]:
    """The servers' environment: the same for both, but that vLLM's is kept clear of Decant's plugin."""
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("DECANT_", "VLLM_", "OMP_"))
    }
    plugins = {"VLLM_PLUGINS": ""} if name == VLLM else {}
    return {**inherited, **ENVIRONMENT, "OMP_NUM_THREADS": str(threads), **plugins}


def command(name: str, model: Path, port: int) -> list[str]:
    """The command line that starts one server."""
    common = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", SERVED]
    if name == DECANT:
        decant = str(Path(sys.executable).parent / "decant")
        args = ["--engine-args", json.dumps(ENGINE_ARGS)]
        return [decant, "serve", str(model), *common, "--log-level", "warning", *args]
    flags = [part for key, value in ENGINE_ARGS.items() for part in _flag(key, value)]
    quiet = ["--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"]
    module = "vllm.entrypoints.openai.api_server"
    return [sys.executable, "-m", module, "--model", str(model), *common, *flags, *quiet]


def _flag(key: str, value: Any) -> list[str]:
    flag = f"--{key.replace('_', '-')}"
    return [flag] if value is True else [flag, str(value)]


@contextmanager
def running(name: str, model: Path, threads: int, folder: Path) -> Iterator[Server]:
    """One server, stopped at the end whatever happens; its log's end is shown if something went wrong."""
    port, log = free_port(), folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(name, model, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(name, threads),
            start_new_session=True,
        )
    server = Server(name, f"http://127.0.0.1:{port}", process, log)
    try:
        yield server
    except Exception:
        print(server.tail(), file=sys.stderr)
        raise
    finally:
        server.stop()


# ---- CPU time --------------------------------------------------------------------------------------------


def _stat(pid: int) -> tuple[int, float]:
    """A process's parent and the CPU seconds it has used itself, all threads together."""
    fields = (
        Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    )
    ticks = int(fields[11]) + int(fields[12])
    return int(fields[1]), ticks / os.sysconf("SC_CLK_TCK")


def machine_seconds() -> float:
    """CPU seconds the whole machine has been busy so far, by anyone."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq = (int(value) for value in fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(root: int) -> tuple[float, float]:
    """CPU seconds so far of the process `root` alone, and of it with all its descendants."""
    stats: dict[int, tuple[int, float]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stats[int(entry.name)] = _stat(int(entry.name))
            except (OSError, IndexError):
                continue  # it has ended meanwhile
    tree, found = {root}, True
    while found:
        more = {pid for pid, (parent, _) in stats.items() if parent in tree and pid not in tree}
        tree |= more
        found = bool(more)
    return stats[root][1], sum(stats[pid][1] for pid in tree if pid in stats)


# ---- requests --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One way of asking: so many requests at once, streamed or not."""

    concurrency: int
    streaming: bool

    def __str__(self) -> str:
        return f"{'streaming' if self.streaming else 'whole'}, concurrency {self.concurrency}"


@dataclass(frozen=True)
class Raw:
    """One answer as it came: when it was asked for, and what arrived when. It is parsed after the round."""

    asked: float
    parts: list[tuple[float, bytes]]


@dataclass(frozen=True)
class Answer:
    """One answer, read. Times are seconds after the request; `arrivals` are those of tokens with text."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    arrivals: tuple[float, ...] = ()


def prompts(cell: Cell, round_number: int, count: int) -> list[str]:
    """The prompts of one round: always the same ones for it, and different ones in every other round."""
    source = random.Random(f"{cell}/{round_number}")
    return [
        f"{index + round_number * count}. Tell me about the " + " and the ".join(source.choices(WORDS, k=8))
        for index in range(count)
    ]


def body(prompt: str, max_tokens: int, streaming: bool) -> bytes:
    """The JSON body of one request."""
    request: dict[str, Any] = {
        "model": SERVED,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    if streaming:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(request).encode()


async def ask(client: httpx.AsyncClient, content: bytes) -> Raw:
    """Send one request and keep what comes back with the time of every read. Errors: Failure if not 200."""
    asked = time.perf_counter()
    parts: list[tuple[float, bytes]] = []
    async with client.stream("POST", "/v1/chat/completions", content=content) as response:
        async for part in response.aiter_raw():
            parts.append((time.perf_counter(), part))  # noqa: PERF401
        if response.status_code != 200:
            text = b"".join(part for _, part in parts)[:500].decode(errors="replace")
            raise Failure(f"a request was answered with {response.status_code}: {text}")
    return Raw(asked, parts)


async def ask_all(url: str, bodies: Sequence[bytes], concurrency: int) -> list[Raw]:
    """All requests, `concurrency` at a time over kept-alive connections; the answers in the same order."""
    answers: list[Raw | None] = [None] * len(bodies)
    waiting = iter(enumerate(bodies))

    async def work(client: httpx.AsyncClient) -> None:
        for index, content in waiting:
            answers[index] = await ask(client, content)

    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    headers = {"Content-Type": "application/json"}
    async with (
        asyncio.timeout(ROUND_SECONDS),
        httpx.AsyncClient(
            base_url=url, limits=limits, headers=headers, timeout=None, trust_env=False
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(concurrency):
            group.create_task(work(client))
    return [answer for answer in answers if answer is not None]


def send(server: Server, bodies: Sequence[bytes], concurrency: int) -> list[Raw]:
    """`ask_all`, with one Failure in place of a group of errors."""
    try:
        return asyncio.run(ask_all(server.url, bodies, concurrency))
    except* (httpx.HTTPError, TimeoutError, Failure) as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise Failure(f"{server.name}: {first or type(first).__name__}") from first


# ---- reading answers -------------------------------------------------------------------------------------


def read_whole(raw: Raw) -> Answer:
    """A plain JSON answer."""
    value = json.loads(b"".join(part for _, part in raw.parts))
    usage = value["usage"]
    return Answer(
        text=value["choices"][0]["message"]["content"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        seconds=raw.parts[-1][0] - raw.asked,
    )


def events(raw: Raw) -> Iterator[tuple[float, bytes]]:
    """The data of a stream's events, each with the time of the read that completed it."""
    ends: list[int] = []
    total = 0
    for _, part in raw.parts:
        total += len(part)
        ends.append(total)
    stream = b"".join(part for _, part in raw.parts)
    start = 0
    while (end := stream.find(b"\n\n", start)) >= 0:
        if stream.startswith(b"data: ", start):
            yield raw.parts[bisect_left(ends, end + 2)][0], stream[start + 6 : end]
        start = end + 2


def read_stream(raw: Raw) -> Answer:
    """A streamed answer. Errors: Failure if it holds an error, lacks its usage or is not ended by [DONE]."""
    pieces: list[str] = []
    arrivals: list[float] = []
    usage: dict[str, int] | None = None
    done = False
    for at, data in events(raw):
        if data == b"[DONE]":
            done = True
            continue
        event = json.loads(data)
        if "error" in event:
            raise Failure(f"a stream ended with an error: {data[:500].decode(errors='replace')}")
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            if piece := choice["delta"].get("content"):
                pieces.append(piece)
                arrivals.append(at - raw.asked)
    if not done or usage is None:
        raise Failure("a stream was incomplete: no usage or no [DONE]")
    return Answer(
        text="".join(pieces),
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        seconds=raw.parts[-1][0] - raw.asked,
        arrivals=tuple(arrivals),
    )


# ---- rounds ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """What one round of requests to one server measured.

    Times are in milliseconds, CPU times per request; `others` is how many cores everything else kept busy.
    """

    tokens_per_s: float
    requests_per_s: float
    ttft_p50: float | None
    ttft_p99: float | None
    gap_p50: float | None
    e2e_p50: float
    api_cpu: float
    tree_cpu: float
    client_cpu: float
    others: float


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * len(ordered) * 100) // 100) - 1))]


def summarise(raws: Sequence[Raw], answers: Sequence[Answer], cpu: Sequence[float]) -> Round:
    """A round's numbers; `cpu` are its CPU seconds of API process, process tree, client and whole machine."""
    seconds = max(raw.parts[-1][0] for raw in raws) - min(raw.asked for raw in raws)
    first = [answer.arrivals[0] * 1e3 for answer in answers if answer.arrivals]
    gaps = [(late - early) * 1e3 for answer in answers for early, late in pairwise(answer.arrivals)]
    others = max(0.0, cpu[3] - cpu[1] - cpu[2]) / seconds
    api, tree, client = (used * 1e3 / len(answers) for used in cpu[:3])
    return Round(
        tokens_per_s=sum(answer.completion_tokens for answer in answers) / seconds,
        requests_per_s=len(answers) / seconds,
        ttft_p50=median(first) if first else None,
        ttft_p99=percentile(first, 0.99) if first else None,
        gap_p50=median(gaps) if gaps else None,
        e2e_p50=median(answer.seconds for answer in answers) * 1e3,
        api_cpu=api,
        tree_cpu=tree,
        client_cpu=client,
        others=others,
    )


def clocks(server: Server) -> tuple[float, float, float, float]:
    """CPU seconds so far: the API process, its process tree, this client, the whole machine."""
    return *cpu_seconds(server.process.pid), time.process_time(), machine_seconds()


def play(server: Server, cell: Cell, asked: Sequence[str], max_tokens: int) -> tuple[Round, list[Answer]]:
    """One round against one server; between the two looks at the clock there is nothing but requests."""
    bodies = [body(prompt, max_tokens, cell.streaming) for prompt in asked]
    gc.collect()
    gc.disable()
    try:
        before = clocks(server)
        raws = send(server, bodies, cell.concurrency)
        after = clocks(server)
    finally:
        gc.enable()
    answers = [read_stream(raw) if cell.streaming else read_whole(raw) for raw in raws]
    for prompt, answer in zip(asked, answers, strict=True):
        if answer.completion_tokens != max_tokens:
            raise Failure(
                f"{server.name} made {answer.completion_tokens} tokens, not {max_tokens}: {prompt!r}"
            )
    used = [late - early for early, late in zip(before, after, strict=True)]
    return summarise(raws, answers, used), answers


def compare_answers(
    servers: dict[str, Server], asked: Sequence[str], got: dict[str, list[Answer]], max_tokens: int
) -> int:
    """Check that both servers gave the same answers; the number that only batching made different.

    Greedy decoding may take another branch at a near tie when other requests share the batch, within one
    server as between two. So a prompt whose texts differ is asked again, alone, of both. Errors: Failure if
    the texts differ then too, or the prompts' token counts do.
    """
    differing = 0
    for prompt, ours, theirs in zip(asked, got[DECANT], got[VLLM], strict=True):
        if ours.prompt_tokens != theirs.prompt_tokens:
            raise Failure(
                f"{prompt!r} is {ours.prompt_tokens} tokens to decant, {theirs.prompt_tokens} to vllm"
            )
        if ours.text != theirs.text:
            content = body(prompt, max_tokens, streaming=False)
            alone = {name: read_whole(send(server, [content], 1)[0]).text for name, server in servers.items()}
            if alone[DECANT] != alone[VLLM]:
                raise Failure(f"the answers to {prompt!r} differ: {alone}")
            differing += 1
    return differing


@dataclass
class Measured:
    """All rounds of one cell; round i of one server and round i of the other make a pair."""

    cell: Cell
    rounds: dict[str, list[Round]] = field(default_factory=lambda: {DECANT: [], VLLM: []})
    differing: int = 0

    def ratios(self, metric: str) -> list[float]:
        """Decant over vLLM, pair by pair; empty if the metric does not exist here."""
        pairs = [
            (getattr(ours, metric), getattr(theirs, metric))
            for ours, theirs in zip(self.rounds[DECANT], self.rounds[VLLM], strict=True)
        ]
        return [ours / theirs for ours, theirs in pairs if ours is not None and theirs]

    def middle(self, server: str, metric: str) -> float | None:
        """The median over one server's rounds."""
        values = [getattr(each, metric) for each in self.rounds[server]]
        return None if None in values else median(values)


def measure(servers: dict[str, Server], cell: Cell, rounds: int, requests: int, max_tokens: int) -> Measured:
    """A warm-up round of each server, then `rounds` pairs in the order A B, B A, A B, ..."""
    measured = Measured(cell)
    for number in range(rounds + 1):
        asked = prompts(cell, number, requests)
        order = [DECANT, VLLM] if number % 2 else [VLLM, DECANT]
        got: dict[str, list[Answer]] = {}
        for name in order:
            result, got[name] = play(servers[name], cell, asked, max_tokens)
            if number:
                measured.rounds[name].append(result)
        measured.differing += compare_answers(servers, asked, got, max_tokens)
        if number:
            ours, theirs = (measured.rounds[name][-1].tokens_per_s for name in (DECANT, VLLM))
            print(f"{cell}: pair {number}/{rounds}: {ours:.0f} and {theirs:.0f} tokens/s", file=sys.stderr)
    return measured


# ---- report ----------------------------------------------------------------------------------------------

METRICS = {
    "tokens_per_s": "output tokens/s",
    "requests_per_s": "requests/s",
    "ttft_p50": "TTFT p50, ms",
    "ttft_p99": "TTFT p99, ms",
    "gap_p50": "inter-token p50, ms",
    "e2e_p50": "end-to-end p50, ms",
    "api_cpu": "API process CPU per request, ms",
    "tree_cpu": "all server processes CPU per request, ms",
    "client_cpu": "client CPU per request, ms",
}
QUIET = 0.15  # cores that others may keep busy before the report warns


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _line_of(file: str, start: str) -> str:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(start)), "unknown")


def _version(*names: str) -> str:
    for name in names:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return f"{names[0]} (unknown)"


def surroundings(model: Path, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Where, when and with what this was measured."""
    memory = _line_of("/proc/meminfo", "MemTotal").split()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _line_of("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[0]) / (1 << 20), 1) if memory[0].isdigit() else None,
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "versions": [_version("decant"), _version("vllm", "vllm-cpu"), f"python {platform.python_version()}"],
        "model": f"{model.parent.name}/{model.name}",
        "threads": threads,
        "rounds": options.rounds,
        "requests": options.requests,
        "max_tokens": options.max_tokens,
        "engine_args": ENGINE_ARGS,
    }


def summary(measured: Measured) -> dict[str, Any]:
    """One cell as JSON: medians, paired ratios with quartiles, and every round."""
    metrics: dict[str, Any] = {}
    for name in METRICS:
        if ratios := measured.ratios(name):
            low, middle, high = quartiles(ratios)
            medians = {server: measured.middle(server, name) for server in (DECANT, VLLM)}
            metrics[name] = {**medians, "ratio": {"q1": low, "median": middle, "q3": high}}
    return {
        **asdict(measured.cell),
        "answers_changed_by_batching": measured.differing,
        "others_busy_cores": median(each.others for rounds in measured.rounds.values() for each in rounds),
        "metrics": metrics,
        "rounds": {name: [asdict(each) for each in rounds] for name, rounds in measured.rounds.items()},
    }


def markdown(around: dict[str, Any], cells: Sequence[dict[str, Any]]) -> str:
    """The report as Markdown."""
    lines = [
        "# Decant against vLLM's own server",
        "",
        f"{around['date']}; {around['cpu']}, {around['cores']} cores, {around['memory_gib']} GiB; "
        f"{', '.join(around['versions'])}; model `{around['model']}`, {around['threads']} threads; "
        f"{around['rounds']} pairs of rounds of {around['requests']} requests, "
        f"{around['max_tokens']} tokens each; load averages before: {around['load_before']}.",
        "",
        f"Engine arguments of both: `{json.dumps(around['engine_args'])}`.",
    ]
    for cell in cells:
        title = f"{'Streaming' if cell['streaming'] else 'Whole answers'}, concurrency {cell['concurrency']}"
        lines += ["", f"## {title}", ""]
        lines += [
            "| | Decant | vLLM | ratio, median of pairs | quartiles |",
            "| --- | --: | --: | --: | --: |",
        ]
        for name, metric in cell["metrics"].items():
            ratio = metric["ratio"]
            lines.append(
                f"| {METRICS[name]} | {metric[DECANT]:.2f} | {metric[VLLM]:.2f} | **{ratio['median']:.3f}** "
                f"| {ratio['q1']:.3f} to {ratio['q3']:.3f} |"
            )
        busy = cell["others_busy_cores"]
        lines += ["", f"Answers that batching alone made differ: {cell['answers_changed_by_batching']}. "]
        lines[-1] += f"Cores kept busy by others, median of rounds: {busy:.2f}."
        if busy > QUIET:
            lines[-1] += " **The machine was not idle: do not quote these numbers.**"
    return "\n".join(lines) + "\n"


def shortfalls(cells: Sequence[dict[str, Any]]) -> list[str]:
    """What misses the targets of --check."""
    missed = []
    bounds: list[tuple[str, Callable[[float], bool], str]] = [
        ("tokens_per_s", lambda ratio: ratio < LEAST_THROUGHPUT, f"at least {LEAST_THROUGHPUT}"),
        ("ttft_p50", lambda ratio: ratio > MOST_TTFT, f"at most {MOST_TTFT}"),
    ]
    for cell in cells:
        for name, is_missed, wanted in bounds:
            if name in cell["metrics"] and is_missed(ratio := cell["metrics"][name]["ratio"]["median"]):
                where = str(Cell(cell["concurrency"], cell["streaming"]))
                missed.append(f"{where}: the ratio of {METRICS[name]} is {ratio:.3f}; wanted {wanted}")
    return missed


# ---- command line ----------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", type=Path, default=EMBEDDED, help="folder of the model (the embedded base)"
    )
    parser.add_argument(
        "--concurrency",
        type=lambda text: [positive(part) for part in text.split(",")],
        default=[8],
        help="requests at once; a list such as 1,8,32 measures each (8)",
    )
    parser.add_argument(
        "--streaming",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="streamed answers only, or whole ones only; both if left out",
    )
    parser.add_argument("--rounds", type=positive, default=10, help="pairs of rounds (10)")
    parser.add_argument("--requests", type=positive, default=64, help="requests a round (64)")
    parser.add_argument("--max-tokens", type=positive, default=64, help="tokens an answer (64)")
    parser.add_argument(
        "--threads", type=positive, default=len(os.sched_getaffinity(0)), help="engine threads (the cores)"
    )
    parser.add_argument("--out", type=Path, help="folder for loadtest.json and loadtest.md")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit with 1 if throughput is below {LEAST_THROUGHPUT} or TTFT above {MOST_TTFT} times vLLM's",
    )
    options = parser.parse_args(arguments)
    if not (options.model / "config.json").is_file():
        parser.error(f"--model: there is no model in {options.model}")
    return options


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Start both servers, measure every cell, and stop them."""
    model = options.model.resolve()
    modes = [True, False] if options.streaming is None else [options.streaming]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loadtest-")))
        servers: dict[str, Server] = {}
        for name in (DECANT, VLLM):  # one after the other: neither then sizes itself by the other's start
            print(f"starting {name}", file=sys.stderr)
            servers[name] = stack.enter_context(running(name, model, options.threads, folder))
            servers[name].wait_ready()
        cells = [Cell(concurrency, mode) for concurrency in options.concurrency for mode in modes]
        return [
            summary(measure(servers, cell, options.rounds, options.requests, options.max_tokens))
            for cell in cells
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 measured, 1 short of --check's targets, 2 failed or wrong usage."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    around = surroundings(options.model.resolve(), options.threads, options)
    try:
        cells = run(options)
    except Failure as failure:
        print(f"loadtest: {failure}", file=sys.stderr)
        return 2
    report = markdown(around, cells)
    print(report)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "loadtest.md").write_text(report, encoding="utf-8")
        data = json.dumps({"surroundings": around, "cells": cells}, indent=1)
        (options.out / "loadtest.json").write_text(data + "\n", encoding="utf-8")
    missed = shortfalls(cells)
    for line in missed:
        print(f"loadtest: {line}", file=sys.stderr)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
