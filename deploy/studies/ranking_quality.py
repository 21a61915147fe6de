"""Whether choosing among candidates pays, asked over HTTP of a server with the embedded models.

    .venv/bin/decant serve &
    .venv/bin/python -m deploy.studies.ranking_quality [--url URL] [--items N] [--out FILE.md]

Multiple choice and verification: held-out (test) items with options, ranked by `/v1/rank` under every rule,
the question as a chat's message and as plain text. A verification is right where a rule says of an option
what it is: P(correct|y) above one half for d and er_d, and for g P(y|correct) above P(y|incorrect).
Generative items: greedy, and the methods that choose among sampled answers. Accuracies with 95% Wilson
intervals; the equilibrium's gain over the better of g and d on these items with a 95% bootstrap interval,
in which the better one is found anew in every resample.
"""

import argparse
import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from server.calibration.quality import Proportion
from server.embedded.recipe.items import Item, items

RULES = ("g", "mi", "sc", "d", "er_g", "er_d")
RANKED = ("choice", "sum_choice")
WRITTEN = ("fact", "sum", "problem_1", "problem_2")
NUMBER = {"type": "regex", "pattern": r"\d+"}
VERDICT = {"type": "verdict"}
METHODS: dict[str, dict[str, Any] | None] = {
    "greedy": None,
    "one sample": {"method": "plain"},
    "majority": {"method": "majority"},
    "mbr": {"method": "mbr"},
    "best_of_n, logprob": {"method": "best_of_n", "reward": {"type": "logprob"}},
    "best_of_n, verdict": {"method": "best_of_n", "reward": VERDICT},
    "equilibrium, er_d": {"method": "equilibrium"},
}
RESAMPLES = 2000


class Asker:
    def __init__(self, client: httpx.AsyncClient, concurrency: int) -> None:
        self.client = client
        self.gate = asyncio.Semaphore(concurrency)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        async with self.gate:
            response = await self.client.post(path, json=body)
        response.raise_for_status()
        return response.json()


async def ranked(asker: Asker, item: Item, chat: bool) -> list[dict[str, Any]]:
    """The results in the order of the item's options."""
    asked: dict[str, Any] = {"prompt": item.prompt}
    if chat:
        asked = {"messages": [{"role": "user", "content": item.prompt}]}
    answer = await asker.post("/v1/rank", {**asked, "candidates": list(item.options)})
    return sorted(answer["results"], key=lambda one: one["index"])


def right_choices(drawn: Sequence[Item], results: Sequence[Any]) -> dict[str, list[bool]]:
    return {
        rule: [
            item.options[max(range(len(found)), key=lambda y: found[y]["scores"][rule])] == item.answer
            for item, found in zip(drawn, results, strict=True)
        ]
        for rule in RULES
    }


def right_verdicts(drawn: Sequence[Item], results: Sequence[Any]) -> dict[str, list[bool]]:
    says = {
        "g": lambda one: one["logprobs"]["correct"] > one["logprobs"]["incorrect"],
        "d": lambda one: one["scores"]["d"] > 0.5,
        "er_d": lambda one: one["scores"]["er_d"] > 0.5,
    }
    return {
        rule: [
            judge(one) == (one["text"] == item.answer)
            for item, found in zip(drawn, results, strict=True)
            for one in found
        ]
        for rule, judge in says.items()
    }


def gain(right: dict[str, list[bool]], rule: str) -> tuple[float, float, float]:
    """The rule's accuracy less the better of g's and d's, and the 95% bootstrap interval of the
    difference.
    """
    count, draw = len(right["g"]), random.Random(0)

    def difference(indices: Sequence[int]) -> float:
        share = {name: sum(right[name][i] for i in indices) / len(indices) for name in (rule, "g", "d")}
        return share[rule] - max(share["g"], share["d"])

    spread = sorted(difference(draw.choices(range(count), k=count)) for _ in range(RESAMPLES))
    low, high = spread[int(0.025 * RESAMPLES)], spread[int(0.975 * RESAMPLES)]
    return difference(range(count)), low, high


def cell(flags: Sequence[bool]) -> str:
    share = Proportion(sum(flags), len(flags))
    low, high = share.interval()
    return f"{share.value:.3f} ({low:.3f} to {high:.3f})"


async def multiple_choice(asker: Asker, count: int) -> list[str]:
    lines = [
        f"| items | {' | '.join(RULES)} | er_d less the better of g, d | er_g less the better of g, d |",
        "|---|" + "--:|" * (len(RULES) + 2),
    ]
    verdicts = ["| verifications | g | d | er_d |", "|---|--:|--:|--:|"]
    for chat in (True, False):
        pooled: dict[str, list[bool]] = {rule: [] for rule in RULES}
        for kind in RANKED:
            drawn = items(kind, "test", count)
            results = await asyncio.gather(*(ranked(asker, item, chat) for item in drawn))
            right = right_choices(drawn, results)
            name = f"{kind}, {'chat' if chat else 'text'}"
            lines.append(choice_row(name, right))
            judged = right_verdicts(drawn, results)
            verdicts.append(f"| {name} | {' | '.join(cell(flags) for flags in judged.values())} |")
            for rule in RULES:
                pooled[rule] += right[rule]
            print(lines[-1], verdicts[-1], sep="\n", flush=True)
        lines.append(choice_row(f"both, {'chat' if chat else 'text'}", pooled))
    return [*lines, "", *verdicts]


def choice_row(name: str, right: dict[str, list[bool]]) -> str:
    gains = [
        f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
        for value, low, high in (gain(right, rule) for rule in ("er_d", "er_g"))
    ]
    return f"| {name} | {' | '.join(cell(right[rule]) for rule in RULES)} | {' | '.join(gains)} |"


async def answered(
    asker: Asker, item: Item, method: dict[str, Any] | None, candidates: int, seed: int
) -> bool:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": item.prompt}],
        "max_tokens": 120,
        "temperature": 1.0 if method else 0.0,
        "seed": seed,
    }
    if method is not None and method["method"] != "plain":
        extract = {"type": "whole"} if item.choices else NUMBER
        body["decoding"] = {"sequence": {**method, "candidates": candidates, "extract": extract}}
    answer = await asker.post("/v1/chat/completions", body)
    return item.is_right(answer["choices"][0]["message"]["content"])


async def written(asker: Asker, count: int, candidates: int) -> list[str]:
    lines = [f"| items | {' | '.join(METHODS)} |", "|---|" + "--:|" * len(METHODS)]
    pooled: dict[str, list[bool]] = {name: [] for name in METHODS}
    for kind in WRITTEN:
        drawn, cells = items(kind, "test", count), []
        for name, method in METHODS.items():
            flags = await asyncio.gather(
                *(answered(asker, item, method, candidates, 1000 * i) for i, item in enumerate(drawn))
            )
            pooled[name] += flags
            cells.append(cell(flags))
        lines.append(f"| {kind} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return [*lines, f"| all | {' | '.join(cell(flags) for flags in pooled.values())} |"]


async def study(url: str, count: int, candidates: int, concurrency: int) -> list[str]:
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        asker = Asker(client, concurrency)
        lines = await multiple_choice(asker, count)
        lines += ["", f"{candidates} candidates at temperature 1:", ""]
        return [*lines, *await written(asker, count, candidates)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--items", type=int, default=200, help="items of each kind")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = asyncio.run(study(options.url, options.items, options.candidates, options.concurrency))
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
