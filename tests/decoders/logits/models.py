"""Tiny random models with peaked next-token distributions: one tokenizer, deliberately unlike shapes."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TOKENIZER = Path(__file__).parents[3] / "server/embedded/base"
TOKENS = 1216  # of that tokenizer; the models' vocabularies are padded beyond it, or not
VOCABULARY = 1280  # of the bases
WIDE, NARROW = 1344, TOKENS
BOS, EOS = 1, 2
WINDOW = 24

LLAMA = (LlamaConfig, LlamaForCausalLM)
QWEN3 = (Qwen3Config, Qwen3ForCausalLM)
MISTRAL = (MistralConfig, MistralForCausalLM)


def shape(width: int, layers: int, heads: int, kv_heads: int, head_dim: int, **other: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        **other,
    }


MODELS: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "base": (LLAMA, shape(128, 3, 4, 2, 32)),
    "polite": (LLAMA, shape(64, 2, 2, 1, 32)),
    "brief": (QWEN3, shape(96, 2, 3, 3, 64, tie_word_embeddings=False)),
    "terse": (MISTRAL, shape(128, 4, 4, 4, 32, sliding_window=None)),
    "wide": (LLAMA, shape(64, 1, 2, 2, 32, vocab_size=WIDE)),
    "narrow": (QWEN3, shape(64, 1, 2, 1, 32, vocab_size=NARROW)),
    "sliding": (MISTRAL, shape(128, 2, 4, 2, 32, sliding_window=WINDOW)),
    "sliding_guide": (MISTRAL, shape(64, 2, 2, 1, 32, sliding_window=WINDOW)),
}


def make_models(folder: Path) -> dict[str, str]:
    """Write every model with the tokenizer into `folder`; their paths by name."""
    return {
        name: make(folder / name, seed, kind, shape)
        for seed, (name, (kind, shape)) in enumerate(MODELS.items())
    }


def quantised(source: str, folder: Path, ignored: Sequence[str]) -> str:
    """A copy with 8-bit linear layers but for `ignored`, as compressed-tensors writes it; its path."""
    shutil.copytree(source, folder)
    weights = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        layer = name.removesuffix(".weight")
        weights[name] = weight
        if name.startswith("model.layers") and weight.ndim == 2 and layer not in ignored:
            scale = weight.abs().amax(1, keepdim=True) / 127
            weights[name] = (weight / scale).round().to(torch.int8)
            weights[f"{layer}.weight_scale"] = scale
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    eight = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**eight, "strategy": "channel", "dynamic": False},
        "input_activations": {**eight, "strategy": "token", "dynamic": True},
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head", *ignored],
        "config_groups": {"group_0": group},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def make(path: Path, seed: int, kind: Any, shape: dict[str, Any]) -> str:
    torch.manual_seed(seed)
    fixed = {"max_position_embeddings": 1024, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": 0}
    config, model_class = kind
    model = model_class(config(**{"vocab_size": VOCABULARY, **fixed, **shape})).float().eval()
    with torch.no_grad():
        # At their initial size random weights say next to nothing of the context, and hardly prefer a token.
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                spread = 0.3 if "embed" in name else 1.0 / parameter.shape[1] ** 0.5
                parameter.normal_(0.0, spread)
        model.get_output_embeddings().weight.mul_(3.0)
    model.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, path)
    return str(path)
