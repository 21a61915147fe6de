"""What switching keeps of the large model's answers, asked over HTTP of a server with the embedded models.

    .venv/bin/decant serve &
    .venv/bin/python -m deploy.studies.ead_quality [--url URL] [--items N] [--rounds N] [--out FILE.md]

Held-out (test) items of four kinds, greedy, by the small model alone, by base alone, and by entropy-adaptive
decoding at five thresholds with window 1, dwell 1 and timing `now`: these answers are short. Accuracy with
its 95% Wilson interval, base's share of the tokens, and tokens per second at the given concurrency; every
round takes the settings in another order, and tokens per second are the median over rounds.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from server.calibration.quality import Proportion
from server.embedded.recipe.items import Item, items

KINDS = ("fact", "problem_1", "problem_2", "code")
THRESHOLDS = (0.1, 0.3, 0.6, 0.9, 1.4)
RULE = {"method": "ead", "window": 1, "dwell": 1, "switch": "now"}
SETTINGS: dict[str, dict[str, Any]] = {
    "small alone": {"method": "plain", "engine": "small"},
    "base alone": {"method": "plain", "engine": "base"},
    **{f"EAD, {bits:g} bits": {**RULE, "threshold": bits} for bits in THRESHOLDS},
}


@dataclass
class Result:
    """right: by kind, one flag an item, of the first round. tokens: by engine. rates: tokens/s by round."""

    right: dict[str, list[bool]] = field(default_factory=dict)
    tokens: Counter[str] = field(default_factory=Counter)
    switches: int = 0
    rates: list[float] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        flags = [flag for kind in self.right.values() for flag in kind]
        return sum(flags) / len(flags)

    @property
    def share(self) -> float:
        return self.tokens["base"] / self.tokens.total()


async def ask(client: httpx.AsyncClient, gate: asyncio.Semaphore, item: Item, sequence: Any) -> Any:
    async with gate:
        answer = await client.post(
            "/v1/chat/completions",
            json={
                "model": "demo",
                "messages": [{"role": "user", "content": item.prompt}],
                "temperature": 0,
                "max_tokens": 120,
                "decoding": {"sequence": sequence, "report": True},
            },
        )
    answer.raise_for_status()
    return answer.json()


async def study(url: str, count: int, rounds: int, concurrency: int) -> dict[str, Result]:
    drawn = [item for kind in KINDS for item in items(kind, "test", count)]
    results = {name: Result() for name in SETTINGS}
    order, gate = random.Random(0), asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        for turn in range(rounds):
            for name in order.sample(list(SETTINGS), len(SETTINGS)):
                began = time.perf_counter()
                answers = await asyncio.gather(*(ask(client, gate, item, SETTINGS[name]) for item in drawn))
                seconds = time.perf_counter() - began
                result = results[name]
                result.rates.append(sum(a["usage"]["completion_tokens"] for a in answers) / seconds)
                print(f"round {turn + 1}, {name}: {result.rates[-1]:.0f} tokens/s", flush=True)
                if turn:
                    continue
                for item, answer in zip(drawn, answers, strict=True):
                    done = answer["decoding"]["sequence"]
                    text = answer["choices"][0]["message"]["content"]
                    result.right.setdefault(item.kind, []).append(item.is_right(text))
                    result.tokens.update(done["tokens"])
                    result.switches += done.get("switches", 0)
    return results


def table(results: dict[str, Result]) -> list[str]:
    base = results["base alone"]
    lines = [
        f"| setting | accuracy (95%) | of base's | {' | '.join(KINDS)} | tokens by base "
        "| switches an answer | tokens/s, of base alone |",
        "|---|--:|--:|" + "--:|" * len(KINDS) + "--:|--:|--:|",
    ]
    for name, result in results.items():
        n = sum(map(len, result.right.values()))
        low, high = Proportion(sum(map(sum, result.right.values())), n).interval()
        kinds = " | ".join(f"{statistics.mean(result.right[kind]):.2f}" for kind in KINDS)
        rate = statistics.median(a / b for a, b in zip(result.rates, base.rates, strict=True))
        lines.append(
            f"| {name} | {result.accuracy:.3f} ({low:.3f} to {high:.3f}) "
            f"| {result.accuracy / base.accuracy:.3f} | {kinds} | {result.share:.0%} "
            f"| {result.switches / n:.1f} | {rate:.2f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--items", type=int, default=60, help="items of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = asyncio.run(study(options.url, options.items, options.rounds, options.concurrency))
    lines = table(results)
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
