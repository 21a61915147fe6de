"""Rounds of load on one server after the other, and what each measured."""

import gc
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from deploy.loadtest.client import Answer, Cell, Raw, body, prompts, read_stream, read_whole, send
from deploy.loadtest.servers import DECANT, VLLM, Failure, Server, cpu_seconds, machine_seconds


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


def first_tokens(answers: Sequence[Answer]) -> list[float]:
    """Times to first token in milliseconds; none for answers that were not streamed."""
    return [answer.arrivals[0] * 1e3 for answer in answers if answer.arrivals]


def summarise(raws: Sequence[Raw], answers: Sequence[Answer], cpu: Sequence[float]) -> Round:
    """A round's numbers; `cpu` are its CPU seconds of API process, process tree, client and whole machine."""
    seconds = max(raw.parts[-1][0] for raw in raws) - min(raw.asked for raw in raws)
    first = first_tokens(answers)
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
    first: dict[str, list[float]] = field(default_factory=lambda: {DECANT: [], VLLM: []})  # TTFTs, ms
    differing: int = 0

    def pooled(self, metric: str) -> dict[str, float]:
        """TTFT percentiles over all requests of all rounds; nothing for any other metric.

        Eight requests that start together wait one engine step or two for their first token, so a round's
        median jumps between the two; that of thousands of requests does not.
        """
        share = {"ttft_p50": 0.5, "ttft_p99": 0.99}.get(metric)
        if share is None or not all(self.first.values()):
            return {}
        return {name: percentile(values, share) for name, values in self.first.items()}

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
                measured.first[name] += first_tokens(got[name])
        measured.differing += compare_answers(servers, asked, got, max_tokens)
        if number:
            ours, theirs = (measured.rounds[name][-1].tokens_per_s for name in (DECANT, VLLM))
            print(f"{cell}: pair {number}/{rounds}: {ours:.0f} and {theirs:.0f} tokens/s", file=sys.stderr)
    return measured
