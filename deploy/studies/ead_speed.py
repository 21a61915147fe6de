"""What switching gains and what a switch costs, between random models, one ten times the size of the other.

    .venv/bin/python -m deploy.studies.ead_speed [--pair 10-100|25-220] [--dtype D] [--dwell N]
                                                    [--rounds N] [--threads N] [--out FILE.md]

Starts `decant serve` with both models and asks it over HTTP: the large model alone, the small one alone, and
entropy-adaptive decoding (window 5, the paper's timing) at a threshold that gives about 30% of the tokens to
the large one, found first. All take turns in every round. With random weights the entropy wanders
about its mean, so that switches come as often as dwell allows: more often than in a text.

A switch's cost is the time that tokens decoded by each model do not explain, at concurrency 1.
"""

import argparse
import asyncio
import json
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
    """Tokens by engine, switches, tokens computed again, and seconds, over all rounds of one setting."""

    tokens: Counter[str] = field(default_factory=Counter)
    switches: int = 0
    recomputed: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.tokens["large"] / self.tokens.total()


class Client:
    def __init__(self, url: str, dwell: int) -> None:
        self.dwell = dwell
        self.http = httpx.AsyncClient(base_url=url, timeout=600)
        generator = torch.Generator().manual_seed(1)
        self.prompts: list[list[int]] = torch.randint(10, 1200, (64, PROMPT), generator=generator).tolist()
        self.turn = 0

    async def ask(self, prompt: list[int], sequence: Any, tokens: int = ANSWER) -> dict[str, Any]:
        body = {"model": "pair", "prompt": prompt, "temperature": 0, "max_tokens": tokens, "ignore_eos": True}
        body["decoding"] = {"sequence": sequence, "report": True}
        answer = await self.http.post("/v1/completions", json=body)
        answer.raise_for_status()
        done: dict[str, Any] = answer.json()["decoding"]["sequence"]
        return done

    async def load(self, into: Load, sequence: Any, concurrency: int) -> None:
        """Twice as many answers as run at once, each prompt new to the caches."""
        self.turn += 1
        prompts = [[10 + self.turn, *prompt[1:]] for prompt in self.prompts[: 2 * concurrency]]
        gate = asyncio.Semaphore(concurrency)

        async def one(prompt: list[int]) -> None:
            async with gate:
                done = await self.ask(prompt, sequence)
            into.tokens.update(done["tokens"])
            into.switches += done.get("switches", 0)
            into.recomputed += done.get("recomputed_tokens", 0)

        began = time.perf_counter()
        await asyncio.gather(*map(one, prompts))
        into.seconds.append(time.perf_counter() - began)

    async def threshold(self) -> float:
        """Bits at which the large model decodes about SHARE of the tokens."""
        low, high = 0.0, 13.0
        for _ in range(12):
            middle, found = (low + high) / 2, Load()
            await self.load(found, self.ead(middle), 4)
            print(f"threshold {middle:.3f}: {found.share:.2f} by the large model", flush=True)
            if abs(found.share - SHARE) < 0.015:
                return middle
            low, high = (middle, high) if found.share > SHARE else (low, middle)
        return (low + high) / 2

    def ead(self, threshold: float) -> dict[str, Any]:
        rule = {"small": "small", "large": "large", "dwell": self.dwell}
        return {"method": "ead", "threshold": threshold, **rule}

    async def prefill(self, tokens: int) -> float:
        """Seconds that `tokens` more tokens of a prompt take the large model."""
        differences = []
        for turn in range(9):
            times = []
            for length in (PROMPT, PROMPT + tokens):
                self.turn += 1  # new to the cache
                prompt = [10 + self.turn, *self.prompts[turn], *self.prompts[turn + 1]][:length]
                began = time.perf_counter()
                await self.ask(prompt, {"method": "plain", "engine": "large"}, 1)
                times.append(time.perf_counter() - began)
            differences.append(times[1] - times[0])
        return statistics.median(differences)


async def study(url: str, rounds: int, dwell: int) -> list[str]:
    client = Client(url, dwell)
    bits = await client.threshold()
    settings = {
        "large": {"method": "plain", "engine": "large"},
        "small": {"method": "plain", "engine": "small"},
        "ead": client.ead(bits),
    }
    lines = [
        "| concurrency | large alone, tokens/s | small alone | EAD | EAD over large | tokens by the large "
        "| tokens between switches | tokens computed again a switch |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for concurrency in (1, 8):
        loads = {name: Load() for name in settings}
        for turn in range(rounds + 1):
            for name, sequence in settings.items():
                await client.load(loads[name] if turn else Load(), sequence, concurrency)
        tokens = 2 * concurrency * ANSWER
        rate = {name: tokens / statistics.median(load.seconds) for name, load in loads.items()}
        mixed = loads["ead"]
        ratio = statistics.median(a / b for a, b in zip(loads["large"].seconds, mixed.seconds, strict=True))
        lines.append(
            f"| {concurrency} | {rate['large']:.1f} | {rate['small']:.1f} | {rate['ead']:.1f} | {ratio:.2f} "
            f"| {mixed.share:.0%} | {mixed.tokens.total() / mixed.switches:.1f} "
            f"| {mixed.recomputed / mixed.switches:.1f} |"
        )
        print(lines[-1], flush=True)
        if concurrency == 1:
            steps = {name: 1 / rate[name] for name in ("small", "large")}
            total = sum(mixed.seconds) / rounds
            explained = sum(steps[name] * mixed.tokens[name] / rounds for name in steps)
            cost = (total - explained) / (mixed.switches / rounds)
            again = round(mixed.recomputed / mixed.switches)
            catch_up = await client.prefill(again)
            sentence = (
                f"At concurrency 1 a switch costs {1e3 * cost:.1f} ms: {cost / steps['large']:.2f} decode "
                f"steps of the large model ({1e3 * steps['large']:.1f} ms each). The bound is two of them "
                f"and the catch-up prefill of {again} tokens ({1e3 * catch_up:.1f} ms by the large model): "
                f"{1e3 * (2 * steps['large'] + catch_up):.1f} ms."
            )
    return [*lines, "", sentence]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", choices=list(PAIRS), default="10-100", help="millions of parameters")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--dwell", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each engine")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed, (name, shape) in enumerate(PAIRS[options.pair].items()):
            count = make(Path(folder), name, shape, seed)
            print(f"{name}: {count / 1e6:.1f}M parameters", flush=True)
        engines = {name: {"model": f"{folder}/{name}"} for name in ("large", "small")}
        arguments = {"max_model_len": 1024, "block_size": 32, "enforce_eager": True, "dtype": options.dtype}
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
            lines = asyncio.run(study(url, options.rounds, options.dwell))
        finally:
            server.terminate()
            server.wait(60)
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
