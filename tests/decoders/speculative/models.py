"""Tiny models of one vocabulary: a target, and drafts that agree with it always, mostly and never."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS = 1216
FEW = 8  # tokens of the vocabulary whose distributions are counted


def _config(vocabulary: int, width: int = 128, layers: int = 2) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        head_dim=32,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def _model(seed: int, config: LlamaConfig, peak: float) -> LlamaForCausalLM:
    """Random weights, as large as it takes for the context to matter and for some tokens to be likely."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.3 if "embed" in name else parameter.shape[1] ** -0.5)
        model.get_output_embeddings().weight.mul_(peak)
    return model


def _disturbed(model: LlamaForCausalLM, share: float) -> LlamaForCausalLM:
    """The model with noise added to its weights, of that share of their size."""
    torch.manual_seed(99)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                torch.randn_like(parameter) * parameter.std() * share if parameter.ndim == 2 else 0
            )
    return model


def _write_eagle(path: Path, target: LlamaForCausalLM) -> None:
    """A head over the target's hidden states that nobody trained."""
    config = _config(TOKENS, layers=1)
    config.architectures = ["LlamaForCausalLM"]
    weights = {
        name.removeprefix("model."): value
        for name, value in _model(3, config, 1.0).state_dict().items()
        if name.startswith("model.layers") and "input_layernorm" not in name
    }
    width = config.hidden_size
    weights["fc.weight"] = torch.cat([torch.zeros(width, width), torch.eye(width)], dim=1)
    weights["embed_tokens.weight"] = target.get_input_embeddings().weight.detach()
    config.save_pretrained(path)
    save_file({k: v.clone().contiguous() for k, v in weights.items()}, path / "model.safetensors")


def make_models(folder: Path) -> dict[str, str]:
    """Write the models into `folder`; their paths by name."""
    many, few = _config(TOKENS), _config(FEW)
    models = {
        "target": _model(0, many, 4.0),
        "near": _disturbed(_model(0, many, 4.0), 0.05),
        "stranger": _model(1, _config(TOKENS, 64, 1), 4.0),
        "few": _model(2, few, 1.5),
        "few_near": _disturbed(_model(2, few, 1.5), 0.5),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
    _write_eagle(folder / "eagle", models["target"])
    return {name: str(folder / name) for name in (*models, "eagle")}
