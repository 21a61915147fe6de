"""What speculation brings and costs: plain, always speculating, and governed, with good and bad drafts.

    .venv/bin/python -m deploy.studies.speculation [--rounds N] [--dtype D] [--out FILE]

The target is a random Llama of about 40M parameters. The good draft is its first layer: the target's other
layers add little to what the first one says. The bad draft is of the same shape with weights of its own.
All engines live in this process, on one thread, and take turns, so that every ratio is of rounds of one run;
the first round warms up and stands apart. On a machine that others use as well, the ratio of CPU time says
more than that of wall time.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from pydantic import TypeAdapter
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams, TokensPrompt

from decoders import plugin
from decoders.speculative.arguments import speculative_arguments
from decoders.speculative.settings import SpeculativeSettings

VOCABULARY, PROMPT, SLOTS, DRAFT = 4096, 64, 8, 4
LAYERS = 12
WHISPER = 0.02  # what the layers beyond the first add, beside what they would


@dataclass(frozen=True)
class Load:
    """So many requests at once, each of so many tokens, sampled at this temperature."""

    requests: int
    tokens: int
    temperature: float

    @property
    def name(self) -> str:
        many = "1 request" if self.requests == 1 else f"{self.requests} requests"
        return f"{many}, {'greedy' if self.temperature == 0 else f'temperature {self.temperature:g}'}"


LOADS = (Load(1, 160, 0.0), Load(4, 96, 1.0))
WAYS = (("draft_model", False), ("draft_model", True), ("adaptive_draft", True))  # and whether governed
METHODS = {
    "draft_model": {"method": "draft_model", "num_speculative_tokens": DRAFT},
    "adaptive_draft": {"method": "adaptive_draft", "max_draft_tokens": 2 * DRAFT},
}
ADAPTER: TypeAdapter[Any] = TypeAdapter(SpeculativeSettings)


def make(folder: Path, name: str, seed: int, layers: int) -> str:
    """Random weights, peaked enough for tokens to be likely; one seed gives one first layer."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for index, (key, parameter) in enumerate(sorted(model.state_dict().items())):
            if parameter.ndim != 2:
                continue
            layer = int(key.split(".")[2]) if ".layers." in key else 0
            own = sum(map(ord, key)) if layer == 0 else 10_000 + index
            seeded = torch.Generator().manual_seed(1000 * seed + own)
            spread = 0.3 if "embed" in key else parameter.shape[1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=seeded) * spread)
            if layer and ("o_proj" in key or "down_proj" in key):
                parameter.mul_(WHISPER)
        model.lm_head.weight.mul_(8.0)
    model.save_pretrained(folder / name)
    print(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters", flush=True)
    return str(folder / name)


def engine(path: str, dtype: str, speculative: dict[str, Any] | None = None) -> LLM:
    arguments: dict[str, Any] = {
        "model": path,
        "dtype": dtype,
        "max_model_len": 512,
        "block_size": 32,
        "max_num_seqs": SLOTS,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "distributed_executor_backend": "uni",
        "kv_cache_memory_bytes": 512 << 20,
        "skip_tokenizer_init": True,
    }
    if speculative is not None:
        arguments = speculative_arguments(ADAPTER.validate_python(speculative), arguments)
    return LLM(**arguments)


def generate(llm: LLM, load: Load, seed: int) -> tuple[float, float]:
    """Seconds that the load takes, and seconds of CPU."""
    seeded = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, VOCABULARY, (load.requests, PROMPT), generator=seeded).tolist()
    params = SamplingParams(
        temperature=load.temperature, max_tokens=load.tokens, ignore_eos=True, detokenize=False
    )
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids in rows]
    began, worked = time.perf_counter(), time.process_time()
    llm.generate(prompts, params, use_tqdm=False)
    return time.perf_counter() - began, time.process_time() - worked


def state(llm: LLM) -> dict[str, Any]:
    found: dict[str, Any] = llm.collective_rpc("decant_speculation")[0]
    return found


def measure(engines: dict[str, LLM], load: Load, rounds: int) -> dict[str, dict[str, float | None]]:
    """Of each engine: tokens per second, how they compare with the plain one's, and what was accepted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    before = {name: state(llm) for name, llm in engines.items() if name != "plain"}
    for turn in range(rounds + 1):
        for name, llm in engines.items():
            times[name].append(generate(llm, load, turn))
    results: dict[str, dict[str, float | None]] = {}
    for name in engines:
        wall, cpu = (
            [plain[of] / own[of] for plain, own in zip(times["plain"], times[name], strict=True)]
            for of in (0, 1)
        )
        typical = statistics.median(took for took, _ in times[name][1:])
        results[name] = {
            "tokens_per_second": round(load.requests * load.tokens / typical, 1),
            "of_plain": round(statistics.median(wall[1:]), 3),
            "of_plain_cpu": round(statistics.median(cpu[1:]), 3),
            "of_plain_cpu_first_round": round(cpu[0], 3),
        }
        if name != "plain":
            after = state(engines[name])
            drafted = after["drafted"] - before[name]["drafted"]
            accepted = after["accepted"] - before[name]["accepted"]
            share = round(accepted / drafted, 3) if drafted else None
            results[name] |= {"drafted": drafted, "accepted": share}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    plugin.register()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        target = make(folder, "target", 0, LAYERS)
        drafts = {"good": make(folder, "good", 0, 1), "bad": make(folder, "bad", 1, 1)}
        engines = {"plain": engine(target, options.dtype)}
        for quality, path in drafts.items():
            for method, governor in WAYS:
                name = f"{quality}, {method}, {'governed' if governor else 'always'}"
                speculative = {**METHODS[method], "model": path, "governor": governor}
                engines[name] = engine(target, options.dtype, speculative)
        for load in LOADS:
            measured = measure(engines, load, options.rounds)
            results.append(
                {"load": load.name, "dtype": options.dtype, "rounds": options.rounds, "engines": measured}
            )
            print(json.dumps(results[-1], indent=1), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
