"""A plain Llama for training on a CPU: the mathematics and parameter names of LlamaForCausalLM."""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tokenizer import MAX_POSITIONS

HEAD_DIM: Final = 64
ROPE_THETA: Final = 10000.0
NORM_EPS: Final = 1e-5
INIT_STD: Final = 0.02

SHIFT_FREQUENCIES: Final = 16
SHIFT_SHARPNESS: Final = 7.0
SHIFT_CONSTANT: Final = 0.1


@dataclass(frozen=True)
class Size:
    """Shape of a model; `shifts`: offsets, in tokens, of the layer-0 heads that begin as shift heads."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    shifts: tuple[int, ...]


SMALL: Final = Size(hidden=128, layers=2, heads=4, kv_heads=2, intermediate=384, shifts=(1, 2))
BASE: Final = Size(hidden=256, layers=4, heads=4, kv_heads=2, intermediate=704, shifts=(1, 2, 3))
SIZES: Final = {"small": SMALL, "base": BASE, "polite": SMALL, "brief": SMALL}


def rope_frequencies() -> Tensor:
    """Rotary frequencies in radians a token, [HEAD_DIM / 2]."""
    return ROPE_THETA ** -(torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)


class Norm(nn.Module):
    """Root-mean-square norm with a learned scale."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, tokens, hidden] -> the same shape."""
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), NORM_EPS)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads, self.kv_heads = size.heads, size.kv_heads
        self.q_proj = nn.Linear(size.hidden, size.heads * HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(size.hidden, size.kv_heads * HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(size.hidden, size.kv_heads * HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(size.heads * HEAD_DIM, size.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[rows, tokens, hidden] -> the same shape; cos and sin are [tokens, HEAD_DIM]."""
        rows, tokens, _ = x.shape
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight]).to(x.dtype)
        projected = F.linear(x, weight).view(rows, tokens, -1, HEAD_DIM).transpose(1, 2)
        q = projected[:, : self.heads]
        k, v = projected[:, self.heads :].chunk(2, 1)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        if self.heads != self.kv_heads:
            group = self.heads // self.kv_heads
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return F.linear(mixed.transpose(1, 2).reshape(rows, tokens, -1), self.o_proj.weight.to(x.dtype))


class MLP(nn.Module):
    """Gated feed-forward block (SwiGLU)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.hidden, size.intermediate, bias=False)
        self.up_proj = nn.Linear(size.hidden, size.intermediate, bias=False)
        self.down_proj = nn.Linear(size.intermediate, size.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, tokens, hidden] -> the same shape."""
        gate = F.silu(F.linear(x, self.gate_proj.weight.to(x.dtype)))
        return F.linear(
            gate * F.linear(x, self.up_proj.weight.to(x.dtype)), self.down_proj.weight.to(x.dtype)
        )


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.self_attn = Attention(size)
        self.mlp = MLP(size)
        self.input_layernorm = Norm(size.hidden)
        self.post_attention_layernorm = Norm(size.hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[rows, tokens, hidden] -> the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        mixed: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return mixed


class Decoder(nn.Module):
    """Embedding, layers and last norm: the `model` of LlamaForCausalLM."""

    def __init__(self, size: Size, vocabulary: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, size.hidden)
        self.layers = nn.ModuleList([Layer(size) for _ in range(size.layers)])
        self.norm = Norm(size.hidden)


class TinyLlama(nn.Module):
    """Llama with tied embeddings that computes in `dtype` over float32 parameters.

    vocabulary: rows of the embedding (padded).
    dtype: bfloat16 where the CPU multiplies it natively, else float32.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, size: Size, vocabulary: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.size, self.vocabulary, self.dtype = size, vocabulary, dtype
        self.model = Decoder(size, vocabulary)
        self._initialise()
        self._plant_shift_heads()
        angles = torch.arange(MAX_POSITIONS).float()[:, None] * rope_frequencies()
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin(), persistent=False)

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, 0, INIT_STD)
            if "o_proj" in name or "down_proj" in name:
                parameter.data.mul_((2 * self.size.layers) ** -0.5)

    @torch.no_grad()
    def _plant_shift_heads(self) -> None:
        """Let some layer-0 heads begin as heads that look a fixed number of tokens back.

        Copying circuits then form in minutes instead of hours. They are ordinary weights and are trained on
        like the rest. One residual dimension is given a constant; keys and queries of the head read it, and
        the rotary phases make the score peak at the offset.
        """
        hidden, half = self.size.hidden, HEAD_DIM // 2
        self.model.embed_tokens.weight[:, 0] = SHIFT_CONSTANT
        mean_square = (SHIFT_CONSTANT**2 + INIT_STD**2 * (hidden - 1)) / hidden
        scale = SHIFT_SHARPNESS * mean_square**0.5 / SHIFT_CONSTANT
        phase = rope_frequencies()[:SHIFT_FREQUENCIES]
        first = self.model.layers[0]
        assert isinstance(first, Layer)
        group = self.size.heads // self.size.kv_heads
        for head, offset in enumerate(self.size.shifts):
            self._plant(
                first.self_attn.k_proj.weight,
                head // group * HEAD_DIM,
                half,
                scale * torch.stack([phase.cos(), phase.sin()]),
            )
            turned = (1 - offset) * phase
            self._plant(
                first.self_attn.q_proj.weight,
                head * HEAD_DIM,
                half,
                scale * torch.stack([turned.cos(), turned.sin()]),
            )

    @staticmethod
    def _plant(weight: Tensor, row: int, half: int, values: Tensor) -> None:
        weight[row : row + SHIFT_FREQUENCIES, 0] = values[0]
        weight[row + half : row + half + SHIFT_FREQUENCIES, 0] = values[1]

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [rows, tokens] -> logits [rows, tokens, vocabulary] in `dtype`."""
        tokens = ids.shape[1]
        weight = self.model.embed_tokens.weight
        x = F.embedding(ids, weight).to(self.dtype)
        cos, sin = self.cos[:tokens].to(self.dtype), self.sin[:tokens].to(self.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return F.linear(self.model.norm(x), weight.to(self.dtype))
