"""Run the benchmark: `python -m kernels.bench --help`."""

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kernels import native
from kernels.bench.cases import VOCABULARIES, Buffers, Case, cache_cases, game_cases, logits_cases
from kernels.bench.timing import Times, measure

HEAD = f"{'operator':26} {'size':44} {'time':>10} {'GB/s':>7} {'of copy':>8} {'reference':>10} {'plain':>8}"


def main() -> int:
    """Measure, print a table and, with --out, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--only", default="", help="only operators whose name contains this")
    parser.add_argument("--quick", action="store_true", help="only the sizes that targets are set for")
    parser.add_argument("--rounds", type=int, default=30, help="most interleaved rounds a case")
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long a case may take")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    torch.set_num_threads(options.threads)
    print(_machine_line(options.device))
    print(HEAD)
    results = []
    for case in _cases(options.device, options.quick, options.only):
        sets = len(case_sets(options.device))
        times = measure(case.ways, options.device, sets, options.rounds, options.seconds)
        results.append(_result(case, times))
        print(_line(results[-1]), flush=True)
    if options.out:
        report = {"machine": _machine(options.device), "results": results}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def case_sets(device: str) -> range:
    """The sets of buffers a case rotates through: on a GPU more than its second-level cache holds."""
    return range(4 if device == "cuda" else 1)


def _cases(device: str, quick: bool, only: str) -> Iterator[Case]:
    buffers = Buffers(device, len(case_sets(device)))

    def wanted() -> Iterator[Case]:
        for dtype in (torch.float32,) if quick else (torch.float32, torch.bfloat16):
            for vocab in (151_936,) if quick else VOCABULARIES:
                for rows in (64,) if quick else (1, 64):
                    yield from logits_cases(buffers, rows, vocab, dtype)
        yield from game_cases(device, 256, 8, 5000)
        if not quick:
            yield from game_cases(device, 1, 8, 5000)
        for dtype in (torch.float32,) if quick else (torch.float32, torch.bfloat16):
            yield from cache_cases(buffers, 4096, 8, 128, dtype)

    return (case for case in wanted() if only in case.operator)


def _result(case: Case, times: Times) -> dict[str, Any]:
    seconds = times.median("native")
    result: dict[str, Any] = {
        "operator": case.operator,
        "size": case.size,
        "seconds": {way: round(times.median(way), 9) for way in case.ways},
        "rounds": len(times.rounds["native"]),
        "target": case.target,
    }
    if case.moved:
        result["gigabytes_per_second"] = round(case.moved / seconds / 1e9, 2)
        # A copy reads and writes each byte; medians of paired rounds, as for the speed-ups.
        result["share_of_copy_bandwidth"] = round(
            times.ratio("copy", "native") * case.moved / (2 * case.copied), 3
        )
    for way in ("reference", "plain"):
        if way in case.ways:
            result[f"speedup_over_{way}"] = round(times.ratio(way, "native"), 2)
    return result


def _line(result: dict[str, Any]) -> str:
    def cell(key: str, width: int, form: str) -> str:
        return f"{result[key]:{form}}".rjust(width) if key in result else "-".rjust(width)

    return " ".join(
        (
            f"{result['operator']:26} {result['size']:44}",
            f"{result['seconds']['native'] * 1000:.3f} ms".rjust(10),
            cell("gigabytes_per_second", 7, ".1f"),
            cell("share_of_copy_bandwidth", 8, ".0%"),
            cell("speedup_over_reference", 10, ".1f"),
            cell("speedup_over_plain", 8, ".1f"),
        )
    )


def _machine(device: str) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "operators": str(native.status()[device.upper()]),
    }


def _machine_line(device: str) -> str:
    facts = _machine(device)
    return (
        f"{facts['date']}, {facts['device']}, {facts['threads']} threads, torch {facts['torch']}; "
        f"{facts['operators']}. reference, plain: how many times as long they take."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


if __name__ == "__main__":
    sys.exit(main())
