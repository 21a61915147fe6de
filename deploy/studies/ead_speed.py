"""What switching gains and what a switch costs, between random models, one ten times the size of the other.

    .venv/bin/python -m deploy.studies.ead_speed [--pair 10-100|25-220] [--dtype D] [--dwell N]
        [--rounds N] [--seconds S] [--threads N] [--concurrency N ...] [--eager] [--out FILE.md]

Starts `decant serve` with both models and asks it over HTTP: the large model alone, the small one alone, and
entropy-adaptive decoding (window 5, the paper's timing) at a threshold that gives 30% of the tokens to the
large one: found roughly first, then set anew before each window so that all windows together come to 30%. All
take turns in every round, each under a steady load: as many users as the concurrency says, each asking again
as soon as it has its answer, tokens counted as they arrive. With random weights the entropy wanders about its
mean, so that switches come as often as dwell allows: more often than in a text.

A switch's cost is the time that tokens decoded by each model do not explain, at concurrency 1.
"""

import argparse
import asyncio
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from prometheus_client.parser import text_string_to_metric_families
from transformers import LlamaConfig, LlamaForCausalLM

from deploy.loadtest.servers import free_port
from server import embedded

PROMPT, ANSWER, SHARE = 64, 160, 0.30
# By millions of parameters: hidden size, intermediate size, layers.
PAIRS: dict[str, dict[str, tuple[int, int, int]]] = {
    "10-100": {"small": (256, 768, 8), "large": (768, 2304, 12)},
    "25-220": {"small": (384, 1152, 10), "large": (1024, 3072, 16)},
}
SPREAD = 4.0  # of the logits: random weights alone give a flat distribution whose entropy never moves


def make(folder: Path, name: str, shape: tuple[int, int, int], seed: int) -> int:
    """A random Llama with the embedded tokenizer; the number of its parameters."""
    torch.manual_seed(seed)
    hidden, intermediate, layers = shape
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(SPREAD / (0.02 * hidden**0.5))
    model.save_pretrained(folder / name)
    for file in embedded.path("base").glob("tokenizer*"):
        shutil.copy(file, folder / name)
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass
class Load:
    """What one setting did: tokens/s in each window watched, and the sums of the server's counters."""

    rates: list[float] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    switches: float = 0
    recomputed: float = 0

    @property
    def rate(self) -> float:
        return statistics.fmean(self.rates)

    @property
    def share(self) -> float:
        return self.tokens["large"] / self.tokens.total()


class Client:
    def __init__(self, url: str, dwell: int) -> None:
        self.dwell = dwell
        self.http = httpx.AsyncClient(base_url=url, timeout=600)
        self.random = random.Random(1)
        self.received = 0  # tokens, of all answers so far

    def prompt(self, tokens: int = PROMPT) -> list[int]:
        """New to the caches."""
        return [self.random.randrange(10, 1200) for _ in range(tokens)]

    async def ask(self, sequence: Any, prompt: list[int], tokens: int = ANSWER) -> dict[str, Any]:
        """One answer, streamed and sampled; its report. Greedy random models run in circles."""
        body = {
            "model": "pair",
            "prompt": prompt,
            "temperature": 1.0,
            "seed": self.random.randrange(2**31),
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "decoding": {"sequence": sequence, "report": True},
        }
        seen, report = 0, {}
        async with self.http.stream("POST", "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                count = event["usage"]["completion_tokens"]
                self.received += count - seen
                seen = count
                report = event.get("decoding") or report
        done: dict[str, Any] = report["sequence"]
        return done

    async def load(self, into: Load, sequence: Any, concurrency: int, seconds: float, ramp: float) -> None:
        """`concurrency` users who ask again and again, watched for `seconds` after `ramp` seconds."""

        async def user() -> None:
            while True:
                await self.ask(sequence, self.prompt())

        counted = await self.counters()
        users = [asyncio.create_task(user()) for _ in range(concurrency)]
        await asyncio.sleep(ramp)
        began, before = time.perf_counter(), self.received
        await asyncio.sleep(seconds)
        into.rates.append((self.received - before) / (time.perf_counter() - began))
        for task in users:
            task.cancel()
        await asyncio.gather(*users, return_exceptions=True)
        await asyncio.sleep(0.3)  # what was cancelled leaves the engines
        done = await self.counters() - counted
        into.switches += done.pop("switches", 0)
        into.recomputed += done.pop("recomputed", 0)
        into.tokens += done

    async def counters(self) -> Counter[str]:
        """Tokens by engine, switches and tokens computed again, of everything so far, cut off answers too."""
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families((await self.http.get("/metrics")).text):
            for sample in family.samples:
                if sample.name == "decant_tokens_total":
                    found[sample.labels["engine"]] += round(sample.value)
                elif sample.name in ("decant_switches_total", "decant_recomputed_tokens_total"):
                    found[sample.name.split("_")[1]] += round(sample.value)
        return found

    async def threshold(self) -> tuple[float, float]:
        """Bits at which the large model decodes about SHARE of the tokens; what a bit more changes there."""
        low, high, seen = 0.0, 13.0, []
        for _ in range(12):
            middle, found = (low + high) / 2, Load()
            for done in await asyncio.gather(*(self.ask(self.ead(middle), self.prompt()) for _ in range(48))):
                found.tokens.update(done["tokens"])
            print(f"threshold {middle:.3f}: {found.share:.2f} by the large model", flush=True)
            seen.append((middle, found.share))
            if abs(found.share - SHARE) < 0.01:
                break
            low, high = (middle, high) if found.share > SHARE else (low, middle)
        near = [point for point in seen if 0.1 < point[1] < 0.6]
        slope = statistics.linear_regression(*zip(*near, strict=True)).slope if len(near) > 1 else -1.0
        return seen[-1][0], min(slope, -0.2)

    def ead(self, threshold: float) -> dict[str, Any]:
        rule = {"small": "small", "large": "large", "dwell": self.dwell}
        return {"method": "ead", "threshold": threshold, **rule}

    async def prefill(self, tokens: int) -> float:
        """Seconds that `tokens` more tokens of a prompt take the large model."""
        plain = {"method": "plain", "engine": "large"}
        differences = []
        for _ in range(15):
            times = []
            for length in (PROMPT, PROMPT + tokens):
                began = time.perf_counter()
                await self.ask(plain, self.prompt(length), 1)
                times.append(time.perf_counter() - began)
            differences.append(times[1] - times[0])
        return statistics.median(differences)


async def study(url: str, rounds: int, dwell: int, seconds: float, concurrencies: list[int]) -> list[str]:
    client = Client(url, dwell)
    bits, slope = await client.threshold()
    settings = {
        "large": {"method": "plain", "engine": "large"},
        "small": {"method": "plain", "engine": "small"},
        "ead": {},  # its threshold is set before each window
    }
    lines = [
        "| concurrency | large alone, tokens/s | small alone | EAD | EAD over large | tokens by the large "
        "| tokens between switches | tokens computed again a switch |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    sentence = ""
    for concurrency in concurrencies:
        loads = {name: Load() for name in settings}
        for turn in range(rounds):
            # What the windows so far are off by, made good in this one.
            owed = (SHARE - loads["ead"].share) * turn if turn else 0.0
            settings["ead"] = client.ead(min(max(bits + owed / slope, bits - 0.5), bits + 0.5))
            for name in sorted(settings, reverse=turn % 2 == 1):
                await client.load(loads[name], settings[name], concurrency, seconds, ramp=4.0)
        rate = {name: load.rate for name, load in loads.items()}
        mixed = loads["ead"]
        ratio = mixed.rate / loads["large"].rate
        lines.append(
            f"| {concurrency} | {rate['large']:.1f} | {rate['small']:.1f} | {rate['ead']:.1f} | {ratio:.2f} "
            f"| {mixed.share:.0%} | {mixed.tokens.total() / mixed.switches:.1f} "
            f"| {mixed.recomputed / mixed.switches:.1f} |"
        )
        print(lines[-1], flush=True)
        if concurrency == 1:
            sentence = await _switch(client, rate, mixed)
    return [*lines, "", sentence]


async def _switch(client: Client, rate: dict[str, float], mixed: Load) -> str:
    """What a switch costs, in words."""
    steps = {name: 1 / rate[name] for name in ("small", "large")}
    explained = steps["large"] * mixed.share + steps["small"] * (1 - mixed.share)
    cost = (1 / rate["ead"] - explained) * mixed.tokens.total() / mixed.switches
    again = round(mixed.recomputed / mixed.switches)
    catch_up = await client.prefill(again)
    return (
        f"At concurrency 1 a switch costs {1e3 * cost:.1f} ms: {cost / steps['large']:.2f} decode steps of "
        f"the large model ({1e3 * steps['large']:.1f} ms each). The bound is two of them and the catch-up "
        f"prefill of {again} tokens ({1e3 * catch_up:.1f} ms by the large model): "
        f"{1e3 * (2 * steps['large'] + catch_up):.1f} ms."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", choices=list(PAIRS), default="10-100", help="millions of parameters")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--dwell", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each watched window")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each engine")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--eager", action="store_true", help="without torch.compile, vLLM's default")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed, (name, shape) in enumerate(PAIRS[options.pair].items()):
            count = make(Path(folder), name, shape, seed)
            print(f"{name}: {count / 1e6:.1f}M parameters", flush=True)
        engines = {name: {"model": f"{folder}/{name}"} for name in ("large", "small")}
        arguments = {"max_model_len": 1024, "block_size": 32, "dtype": options.dtype}
        arguments["enforce_eager"] = options.eager
        port = free_port()
        command = [str(Path(sys.executable).with_name("decant")), "serve", "--port", str(port)]
        command += ["--served-model-name", "pair", "--log-level", "warning"]
        command += ["--engines", json.dumps(engines), "--engine-args", json.dumps(arguments)]
        command += ["--threads-per-engine", str(options.threads)]
        server = subprocess.Popen(command)
        try:
            url = f"http://127.0.0.1:{port}"
            while True:
                if server.poll() is not None:
                    raise SystemExit("the server did not start")
                try:
                    if httpx.get(f"{url}/ready").status_code == 200:
                        break
                except httpx.HTTPError:
                    pass
                time.sleep(0.5)
            lines = asyncio.run(
                study(url, options.rounds, options.dwell, options.seconds, options.concurrency)
            )
        finally:
            server.terminate()
            server.wait(60)
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
