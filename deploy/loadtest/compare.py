"""Decant against vLLM's own server: one model, one machine, one run, interleaved rounds compared in pairs.

Run from the repository root: `.venv/bin/python -m deploy.loadtest.compare --help`. The README beside this
file says what is measured and how to read it.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deploy.loadtest.client import Cell
from deploy.loadtest.report import LEAST_THROUGHPUT, MOST_TTFT, markdown, shortfalls, summary, surroundings
from deploy.loadtest.rounds import measure
from deploy.loadtest.servers import DECANT, VLLM, Failure, Server, running
from server import embedded

EMBEDDED = embedded.path("base")


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
