"""A causal language model and its guides as one vLLM model: one forward pass, one KV cache manager."""

from collections.abc import Iterable
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from vllm.compilation.backends import set_model_tag
from vllm.config import ModelConfig, VllmConfig
from vllm.config.utils import replace
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models import ModelRegistry
from vllm.model_executor.models.interfaces import is_attention_free, is_hybrid
from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model
from vllm.transformers_utils.config import get_config

from decoders.logits.channel import GUIDES, channel


class GuidedForCausalLM(nn.Module):
    """The base with its guides, which may differ from it in width, depth, family and vocabulary padding.

    `forward` returns the hidden states of the base and of the guides this step needs, side by side, so that
    the rows that the runner picks from them stay aligned; `compute_logits` splits them again and guides the
    rows that ask for it.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        found = channel(vllm_config)
        if found is None:
            raise ValueError(f"additional_config lacks {GUIDES}")
        self.channel = found
        found.bound = True
        self.vocab_size = vllm_config.model_config.get_vocab_size()
        self.base = _base(vllm_config)
        self.sizes = {"": vllm_config.model_config.get_hidden_size()}
        self.vocabularies: dict[str, int] = {}
        self.secondary_weights = []
        self._attributes: dict[str, str] = {}
        paths: dict[str, str] = vllm_config.additional_config[GUIDES]
        for k, (name, path) in enumerate(paths.items()):
            config = _guide_config(vllm_config, name, path)
            # No bare integer in a prefix: vLLM reads layer numbers from them and allows one.
            attribute = self._attributes[name] = f"guide_{k}"
            setattr(self, attribute, _guide(vllm_config, config, attribute))
            self.sizes[name] = config.get_hidden_size()
            self.vocabularies[name] = config.get_vocab_size()
            # vLLM's loader streams these after the base's own weights.
            self.secondary_weights.append(
                DefaultModelLoader.Source(path, revision=None, prefix=f"{attribute}.")
            )

    def guide(self, name: str) -> Any:
        return getattr(self, self._attributes[name])

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self.base.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Hidden states `[tokens, width of the base + widths of the active guides]`."""
        hidden = self.base(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)
        active = self.channel.active
        if not active:
            return hidden
        return torch.cat([hidden, *(self._run(name, input_ids, positions) for name in active)], dim=-1)

    def _run(self, name: str, input_ids: Tensor, positions: Tensor) -> Tensor:
        # Padding of the base's vocabulary may be asked for by id; a guide that lacks it gets its last token.
        known = self.vocabularies[name]
        ids = input_ids.clamp(max=known - 1) if known < self.vocab_size else input_ids
        hidden: Tensor = self.guide(name)(ids, positions)
        return hidden

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits `[rows, vocab]`: guided where the rows are the batch's and ask for it, else the base's.

        vLLM calls this again in the same step for prompt logprobs, whose rows are others.
        """
        active = self.channel.active
        base, *guides = hidden_states.split([self.sizes[name] for name in ("", *active)], dim=-1)
        logits = self.base.compute_logits(base.contiguous() if active else base)
        sampling, self.channel.sampling = self.channel.sampling, False
        if not sampling or not self.channel.guides_rows():
            return logits
        found = {
            name: self.guide(name).compute_logits(hidden.contiguous())
            for name, hidden in zip(active, guides, strict=True)
        }
        if logits is None:  # with tensor parallelism only the first rank samples
            return None
        logits = logits.float()
        fitted = {name: self._fit(guide) for name, guide in found.items() if guide is not None}
        self.channel.fuse(logits, fitted)
        return logits

    def _fit(self, logits: Tensor) -> Tensor:
        """A guide's logits in the base's width: models of one tokenizer may be padded to different sizes."""
        missing = self.vocab_size - logits.shape[-1]
        if missing > 0:
            return nn.functional.pad(logits, (0, missing), value=float("-inf"))
        return logits[..., : self.vocab_size]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        own = tuple(f"{attribute}." for attribute in self._attributes.values())
        named = ((name if name.startswith(own) else f"base.{name}", weight) for name, weight in weights)
        loaded: set[str] = AutoWeightsLoader(self).load_weights(named)
        return loaded


def _base(vllm_config: VllmConfig) -> nn.Module:
    # The engine's arguments replaced `architectures`; the checkpoint still has its own.
    config = vllm_config.model_config
    original = get_config(config.model, trust_remote_code=config.trust_remote_code, revision=config.revision)
    _require_attention_only("the base", config, original.architectures)
    # Without a prefix: a checkpoint's quantisation names layers, and is matched against their full names.
    return init_vllm_registered_model(
        vllm_config, prefix="", hf_config=config.hf_config, architectures=original.architectures
    )


def _guide_config(vllm_config: VllmConfig, name: str, path: str) -> ModelConfig:
    base = vllm_config.model_config
    who = f"guide {name} ({path})"
    try:
        config = ModelConfig(
            model=path,
            tokenizer=base.tokenizer,
            dtype=base.dtype,
            max_model_len=base.max_model_len,
            trust_remote_code=base.trust_remote_code,
            seed=base.seed,
        )
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from error
    _require_attention_only(who, config, config.architectures)
    # vLLM makes the groups of experts for the base, and counts their layers in each step's order.
    if config.is_moe:
        raise ValueError(f"{who}: a mixture of experts cannot be a guide, only a base")
    return config


def _require_attention_only(who: str, config: ModelConfig, architectures: list[str]) -> None:
    """Recurrent states would need blocks of other sizes, which vLLM plans for one whole model only."""
    found, _ = ModelRegistry.resolve_model_cls(architectures, config)
    kinds = getattr(config.hf_text_config, "layer_types", None) or ("recurrent",)
    if is_attention_free(found) or (is_hybrid(found) and not {*kinds} <= {"attention", "full_attention"}):
        raise ValueError(
            f"{who}: models with recurrent layers (Mamba, linear attention) can neither have nor be guides"
        )


def _guide(vllm_config: VllmConfig, config: ModelConfig, prefix: str) -> nn.Module:
    # vLLM puts the base's window into the cache configuration when all its layers slide, and attention
    # layers without a window of their own take it from there: the guide gets a copy with its own.
    types = getattr(config.hf_text_config, "layer_types", None) or ["sliding_attention"]
    slides = all(kind == "sliding_attention" for kind in types)
    cache_config = copy(vllm_config.cache_config)
    cache_config.sliding_window = config.get_sliding_window() if slides else None
    guide_config = replace(vllm_config, model_config=config, cache_config=cache_config, quant_config=None)
    if guide_config.quant_config is not None:
        _name_layers_as_alone(guide_config.quant_config, f"{prefix}.")
    with set_model_tag(prefix):
        return initialize_model(guide_config, prefix=prefix)


def _name_layers_as_alone(quant_config: QuantizationConfig, own: str) -> None:
    """Give `quant_config` the layers' names as in the guide's checkpoint, for which its lists were written.

    own: what their names begin with here. The lists themselves cannot be renamed: not every kind of
    quantisation can do it, and some models rename them too.
    """
    by_name = quant_config.get_quant_method

    def get_quant_method(layer: nn.Module, prefix: str) -> Any:
        return by_name(layer, prefix.removeprefix(own))

    quant_config.get_quant_method = get_quant_method
