"""What merging costs beside the prefill of the same prompt, on a random model of about 100M parameters.

    .venv/bin/python -m deploy.studies.cache_cost [--dtype float32] [--rounds N] [--out FILE.md]

Each round prefills a prompt plain and with kvmerger, one after the other; the ratio of the merge's seconds,
as the worker measures them over all layers, to the plain prefill's is given as its median over rounds.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from server.environment import prepare

LENGTHS = (1024, 4096)


def model(folder: Path) -> str:
    """A random Llama: 12 layers, width 768, 12 heads of 64, 4 key heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16384,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=8192,
    )
    network = LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.0f}M parameters", flush=True)
    network.save_pretrained(folder)
    return str(folder)


def measure(path: str, dtype: str, rounds: int) -> list[str]:
    import torch
    from vllm import LLM, SamplingParams

    from decoders import plugin
    from decoders.cache.engine import cache_arguments
    from decoders.request import DecodingRequest

    plugin.register()
    arguments: dict[str, Any] = {
        "model": path,
        "skip_tokenizer_init": True,
        "dtype": dtype,
        "max_model_len": 8192,
        "max_num_batched_tokens": 8192,
        "block_size": 32,
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
        "kv_cache_memory_bytes": 1 << 30,
        "enable_prefix_caching": False,
    }
    llm = LLM(**cache_arguments(["kvmerger"], arguments))
    cache = DecodingRequest.model_validate({"cache": {"method": "kvmerger", "budget": 0.5}}).cache
    lines = ["| tokens | prefill s | merge s | merge / prefill (quartiles) |", "|--:|--:|--:|--:|"]
    for length in LENGTHS:
        prefills, merges, ratios = [], [], []
        for seed in range(rounds + 1):
            generator = torch.Generator().manual_seed(seed)
            prompt = {"prompt_token_ids": torch.randint(16384, (length,), generator=generator).tolist()}
            plain = SamplingParams(max_tokens=1, temperature=0, detokenize=False)
            began = time.perf_counter()
            llm.generate([prompt], plain, use_tqdm=False)  # type: ignore[list-item]
            prefill = time.perf_counter() - began
            merging = SamplingParams(
                max_tokens=2, temperature=0, detokenize=False, extra_args=cache.engine_arguments()
            )
            llm.collective_rpc("decant_cache")
            llm.generate([prompt], merging, use_tqdm=False)  # type: ignore[list-item]
            (state,) = llm.collective_rpc("decant_cache")
            (merge,) = state["seconds"]
            if seed:  # the first one warms up
                prefills.append(prefill)
                merges.append(merge)
                ratios.append(merge / prefill)
        low, _, high = quantiles(ratios, n=4)
        lines.append(
            f"| {length} | {median(prefills):.3f} | {median(merges):.4f} | {median(ratios):.3f} "
            f"({low:.3f} to {high:.3f}) |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prepare(engines=1, threads_per_engine=1, vllm_log_level="error", stop_strings=4)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(model(Path(folder)), options.dtype, options.rounds)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
