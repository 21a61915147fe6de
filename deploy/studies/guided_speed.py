"""What guidance costs: a guided engine beside its models alone and beside a Hugging Face loop of both.

    .venv/bin/python -m deploy.studies.guided_speed [--rounds N] [--dtype D] [--compile] [--out FILE]

Models are random, of about 30M parameters. All engines live in this process and take turns, so that every
ratio is of rounds of one run. `ideal` is 1 / (1/base + 1/guide): both models' time one after the other, and
nothing else.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams, TokensPrompt

from decoders import plugin
from decoders.logits.engine import guided_arguments
from decoders.logits.genarm import GenArm
from server import embedded

PROMPT, ANSWER, SLOTS = 64, 64, 16


@dataclass(frozen=True)
class Load:
    """Answers of these many tokens are asked for at once; at most SLOTS of them run together."""

    name: str
    answers: list[int]

    @property
    def tokens(self) -> int:
        return sum(self.answers)

    def prompts(self) -> list[list[int]]:
        seeded = torch.Generator().manual_seed(len(self.answers))
        shape = (len(self.answers), PROMPT)
        rows: list[list[int]] = torch.randint(5, 500, shape, generator=seeded).tolist()
        return rows


LOADS = (
    Load("one request", [ANSWER]),
    Load("16 requests of equal length", [ANSWER] * SLOTS),
    # What a server sees: a loop pads its batch to the longest answer, an engine refills the slots.
    Load("48 requests of 8 to 120 tokens", [8 + 112 * i * 29 % 113 for i in range(48)]),
)


def make(folder: Path, name: str, seed: int) -> str:
    """A random Llama of about 30M parameters with the embedded tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    path = folder / name
    model = LlamaForCausalLM(config)
    model.save_pretrained(path)
    for file in embedded.path("base").glob("tokenizer*"):
        shutil.copy(file, path)
    print(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters")
    return str(path)


def engine(path: str, dtype: str, compiled: bool, guides: dict[str, str] | None = None) -> LLM:
    arguments: dict[str, Any] = {
        "model": path,
        "dtype": dtype,
        "max_model_len": 256,
        "block_size": 32,
        "max_num_seqs": SLOTS,
        "enforce_eager": not compiled,
        "enable_prefix_caching": False,
        "distributed_executor_backend": "uni",
        "kv_cache_memory_bytes": 256 << 20,
        "skip_tokenizer_init": True,
    }
    return LLM(**(guided_arguments(guides, arguments) if guides else arguments))


def generate(llm: LLM, load: Load, guided: bool = False) -> Callable[[], object]:
    method = GenArm(method="genarm", weights={"guide": 1.0})
    extra = method.engine_arguments() if guided else None
    params = [
        SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, extra_args=extra)
        for tokens in load.answers
    ]
    salt = {"cache_salt": method.cache_salt()} if guided else {}
    prompts = [TokensPrompt(prompt_token_ids=ids, **salt) for ids in load.prompts()]  # type: ignore[typeddict-item]
    return lambda: llm.generate(prompts, params, use_tqdm=False)


def hugging_face(paths: list[str], load: Load, dtype: str) -> Callable[[], object]:
    """Both models in a batched loop with KV caches, as research code runs them."""
    models = [
        AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval() for path in paths
    ]

    @torch.inference_mode()
    def batch(prompts: list[list[int]], steps: int) -> None:
        tokens, caches = torch.tensor(prompts), [None, None]
        for _ in range(steps):
            logprobs = 0
            for i, model in enumerate(models):
                out = model(tokens, past_key_values=caches[i], use_cache=True, logits_to_keep=1)
                caches[i] = out.past_key_values
                logprobs = logprobs + out.logits[:, -1].log_softmax(-1)
            tokens = logprobs.argmax(-1, keepdim=True)

    def loop() -> None:
        prompts = load.prompts()
        for first in range(0, len(prompts), SLOTS):
            batch(prompts[first : first + SLOTS], max(load.answers[first : first + SLOTS]))

    return loop


def measure(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if turn:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    return times


def ratio(times: dict[str, list[float]], over: tuple[str, ...], under: str) -> float:
    """How many times as long the first ways take together as the other: the median over rounds."""
    sums = [sum(values) for values in zip(*(times[name] for name in over), strict=True)]
    return statistics.median(one / other for one, other in zip(sums, times[under], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile the models of all engines")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    plugin.register()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        base_path, guide_path = make(Path(folder), "base", 0), make(Path(folder), "guide", 1)
        how = (options.dtype, options.compile)
        base, guide = engine(base_path, *how), engine(guide_path, *how)
        both = engine(base_path, *how, {"guide": guide_path})
        for load in LOADS:
            times = measure(
                {
                    "base": generate(base, load),
                    "guide": generate(guide, load),
                    "guided": generate(both, load, guided=True),
                    "unguided": generate(both, load),
                    "hugging_face": hugging_face([base_path, guide_path], load, options.dtype),
                },
                options.rounds,
            )
            results.append(
                {
                    "load": load.name,
                    "dtype": options.dtype,
                    "compiled": options.compile,
                    "tokens_per_second": {
                        name: round(load.tokens / statistics.median(values), 1)
                        for name, values in times.items()
                    },
                    "guided_of_ideal": round(ratio(times, ("base", "guide"), "guided"), 3),
                    "unguided_of_plain": round(ratio(times, ("base",), "unguided"), 3),
                    "guided_over_hugging_face": round(ratio(times, ("hugging_face",), "guided"), 2),
                    "rounds": options.rounds,
                    "threads": torch.get_num_threads(),
                }
            )
            print(json.dumps(results[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
