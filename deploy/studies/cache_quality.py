"""What compressing the cache costs: retrieval from long texts, and perplexity behind them.

    .venv/bin/python -m deploy.studies.cache_quality [--model FOLDER] [--items N] [--out FILE] [--plot FILE]

Retrieval: the embedded recipe's held-out items of notes in a long text, asked greedily, the share answered
rightly. Perplexity: of the last tokens of held-out long texts, which the engine is made to write behind a
compressed prompt. Every method at every budget on one engine, and the full cache.
"""

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from server.embedded.recipe.items import items
from server.embedded.recipe.notes import draw_text
from server.environment import prepare

if TYPE_CHECKING:
    from vllm import LLM

BUDGETS: Final = (0.75, 0.5, 0.35, 0.2)
METHODS: Final[Mapping[str, dict[str, Any]]] = {
    "kvmerger": {"method": "kvmerger"},
    "kvmerger, mass": {"method": "kvmerger", "mass": True},
    "kvmerger, heavy 0.1, pool 1": {"method": "kvmerger", "heavy": 0.1, "pool": 1},
    "kvmerger, peak 0.45": {"method": "kvmerger", "peak": 0.45},
    "snapkv": {"method": "snapkv"},
    "streaming": {"method": "streaming"},
}
TEXT, SCORED = 700, 96  # tokens of a long text's beginning, and of what is scored behind it


def engine(model: str) -> "LLM":
    """The model with all cache methods, and made to write what it is told."""
    from vllm import LLM

    from decoders import plugin
    from decoders.cache.engine import cache_arguments
    from deploy.studies.forcing import NAME

    plugin.register()
    arguments = {
        "model": model,
        "dtype": "float32",
        "max_model_len": 2048,
        "block_size": 32,
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
        "kv_cache_memory_bytes": 256 << 20,
        "max_num_seqs": 32,
        "enable_prefix_caching": False,
        "logits_processors": [NAME],
    }
    return LLM(**cache_arguments(["kvmerger", "snapkv", "streaming"], arguments))


def _extra(cache: dict[str, Any] | None) -> dict[str, Any]:
    from decoders.request import DecodingRequest

    return DecodingRequest.model_validate({"cache": cache}).cache.engine_arguments() if cache else {}


def retrieval(llm: "LLM", kind: Any, tokens: int, count: int, cache: dict[str, Any] | None) -> float:
    """Share of notes found again in texts of about this many tokens."""
    from vllm import SamplingParams

    drawn = items(kind, "test", count, tokens)
    tokenizer = llm.get_tokenizer()
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": item.prompt}], add_generation_prompt=True, tokenize=False
        )
        for item in drawn
    ]
    ids = [{"prompt_token_ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in prompts]
    params = SamplingParams(temperature=0, max_tokens=32, extra_args=_extra(cache) or None)
    outputs = llm.generate(ids, params, use_tqdm=False)  # type: ignore[arg-type]
    right = [item.is_right(output.outputs[0].text) for item, output in zip(drawn, outputs, strict=True)]
    return sum(right) / len(right)


def long_texts(llm: "LLM", count: int) -> list[list[int]]:
    """Token ids of texts with notes and prose, TEXT + SCORED long."""
    tokenizer, texts = llm.get_tokenizer(), []
    for seed in range(count):
        text, _ = draw_text(Random(f"cache study {seed}"), 2 * (TEXT + SCORED), 24)
        texts.append(tokenizer(text)["input_ids"][: TEXT + SCORED])
    assert all(len(one) == TEXT + SCORED for one in texts)
    return texts


def perplexity(llm: "LLM", texts: Sequence[list[int]], cache: dict[str, Any] | None) -> float:
    """Of each text's last tokens, behind the others as a prompt."""
    from vllm import SamplingParams

    from deploy.studies.forcing import TOKENS

    params = [
        SamplingParams(
            temperature=0,
            max_tokens=SCORED,
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
            extra_args={**_extra(cache), TOKENS: text[TEXT:]},
        )
        for text in texts
    ]
    outputs = llm.generate([{"prompt_token_ids": text[:TEXT]} for text in texts], params, use_tqdm=False)
    total, scored = 0.0, 0
    for output, text in zip(outputs, texts, strict=True):
        assert list(output.outputs[0].token_ids) == text[TEXT:]
        # The first token's distribution was computed before anything was compressed.
        for position, token in zip((output.outputs[0].logprobs or [])[1:], text[TEXT + 1 :], strict=True):
            total -= position[token].logprob
            scored += 1
    return math.exp(total / scored)


def study(model: str, count: int, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each method and budget."""
    llm = engine(model)
    texts = long_texts(llm, max(8, count // 4))
    rows = []
    for name, cache in [
        ("full", None),
        *((n, {**m, "budget": b}) for n, m in METHODS.items() for b in BUDGETS),
    ]:
        row: dict[str, Any] = {"method": name, "budget": cache["budget"] if cache else 1.0}
        for kind in ("word", "code"):
            for tokens in lengths:
                row[f"{kind} at {tokens}"] = retrieval(llm, kind, tokens, count, cache)
        row["perplexity"] = perplexity(llm, texts, cache)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def table(rows: Sequence[Mapping[str, Any]], count: int) -> list[str]:
    names = [name for name in rows[0] if name not in ("method", "budget")]
    lines = [f"| method | budget | {' | '.join(names)} |", "|---|--:|" + "--:|" * len(names)]
    for row in rows:
        values = " | ".join(f"{row[name]:.3f}" for name in names)
        lines.append(f"| {row['method']} | {row['budget']:g} | {values} |")
    return [
        *lines,
        "",
        f"Shares of {count} items each; a share's standard error is at most {0.5 / count**0.5:.3f}.",
    ]


def plot(rows: Sequence[Mapping[str, Any]], to: Path) -> None:
    """Mean retrieval and perplexity over the budget, a line a method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    full = rows[0]
    for name in METHODS:
        mine = [full, *(row for row in rows if row["method"] == name)]
        budgets = [row["budget"] for row in mine]
        kinds = [key for key in full if " at " in key]
        left.plot(budgets, [sum(row[key] for key in kinds) / len(kinds) for row in mine], "o-", label=name)
        right.plot(budgets, [row["perplexity"] for row in mine], "o-", label=name)
    left.set_ylabel("share of notes found")
    right.set_ylabel("perplexity behind the prompt")
    for axes in (left, right):
        axes.set_xlabel("budget")
        axes.grid(alpha=0.3)
    left.legend()
    figure.tight_layout()
    figure.savefig(to)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="server/embedded/base")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--lengths", type=int, nargs="+", default=[250, 500, 900])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    prepare(engines=1, threads_per_engine=1, vllm_log_level="error", stop_strings=4)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    rows = study(options.model, options.items, options.lengths)
    if options.out:
        options.out.write_text("\n".join(table(rows, options.items)) + "\n", encoding="utf-8")
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
