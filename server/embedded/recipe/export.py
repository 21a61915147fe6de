"""Hugging Face model folders: written from a trained model, read back for more training."""

import json
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from .tinyllama import HEAD_DIM, NORM_EPS, ROPE_THETA, Size, TinyLlama
from .tokenizer import BOS, EOS, MAX_POSITIONS, PAD, token_id, write_tokenizer

VOCABULARY_MULTIPLE: Final = 64


def padded_vocabulary(tokenizer: Tokenizer) -> int:
    """Vocabulary size rounded up to a multiple of 64."""
    return -(-tokenizer.get_vocab_size() // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def model_config(size: Size, tokenizer: Tokenizer) -> dict[str, object]:
    """The content of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": token_id(tokenizer, BOS),
        "dtype": "bfloat16",
        "eos_token_id": token_id(tokenizer, EOS),
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "initializer_range": 0.02,
        "intermediate_size": size.intermediate,
        "max_position_embeddings": MAX_POSITIONS,
        "mlp_bias": False,
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "pad_token_id": token_id(tokenizer, PAD),
        "rms_norm_eps": NORM_EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": padded_vocabulary(tokenizer),
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, object]:
    """The content of generation_config.json."""
    return {
        "bos_token_id": token_id(tokenizer, BOS),
        "eos_token_id": token_id(tokenizer, EOS),
        "pad_token_id": token_id(tokenizer, PAD),
    }


def write_model(model: TinyLlama, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a complete model folder with bfloat16 weights."""
    write_tokenizer(tokenizer, folder)
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in (
        ("config.json", model_config(model.size, tokenizer)),
        ("generation_config.json", generation_config(tokenizer)),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def read_model(size: Size, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype) -> TinyLlama:
    """Read a model folder for more training."""
    model = TinyLlama(size, padded_vocabulary(tokenizer), dtype)
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model
