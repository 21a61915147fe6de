"""Every bad argument is refused by name."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import ops
from tests.kernels import cases

ROWS, VOCAB, TOKENS, HEADS, DIM = 4, 9, 12, 2, 8
NAN, INF = math.nan, math.inf

Bad = tuple[str, dict[str, Any], type[Exception]]


def zeros(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.zeros(*shape, dtype=dtype, device=device)


def whole(*values: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def logits(dtype: torch.dtype = torch.float32) -> Tensor:
    return cases.logits(ROWS, VOCAB, seed=1, dtype=dtype)


def keys(dtype: torch.dtype = torch.float32) -> Tensor:
    return cases.randn(TOKENS, HEADS, DIM, seed=2, dtype=dtype)


def pages() -> Tensor:
    return cases.randn(3, 4, HEADS, DIM, seed=3)


def segments() -> Tensor:
    return (torch.arange(TOKENS, dtype=torch.int32) // 2).expand(HEADS, -1).contiguous()


# Arguments that each operator accepts; a case below replaces some of them.
GOOD: dict[str, Callable[[], dict[str, Any]]] = {
    "entropy": lambda: {"logits": logits(), "rows": whole(0)},
    "fuse_logits_": lambda: {"base": logits(), "guides": [logits()], "weights": torch.ones(1, ROWS)},
    "dynamic_fusion": lambda: {
        "large": logits(),
        "experts": [logits()],
        "small": logits(),
        "grid": [0.0, 1.0],
    },
    "dynamic_fusion_": lambda: {"large": logits(), "experts": [logits()], "small": logits()},
    "pikl": lambda: {"generator": zeros(3, 2, 5), "discriminator": zeros(3, 5, 2), "iterations": 2},
    "adjacent_similarity": lambda: {"keys": keys()},
    "window_scores": lambda: {"query": zeros(3, 4, DIM), "keys": keys(), "scale": 1.0},
    "merge_segments": lambda: {"similarity": zeros(2, 11), "scores": zeros(2, 12), "slots": 6},
    "merge_kv_": lambda: {
        "keys": keys(),
        "values": keys(),
        "scores": zeros(HEADS, TOKENS),
        "segments": segments(),
        "slots": 6,
    },
}


def bad_logits(name: str) -> list[Bad]:
    return [
        (name, {name: zeros(VOCAB)}, ValueError),
        (name, {name: zeros(ROWS, 0)}, ValueError),
        (name, {name: zeros(ROWS, VOCAB, dtype=torch.float64)}, ValueError),
        (name, {name: zeros(ROWS, VOCAB, dtype=torch.int64)}, ValueError),
        (name, {name: [[1.0, 2.0]]}, ValueError),
    ]


def bad_rows() -> list[Bad]:
    return [
        ("rows", {"rows": zeros(1)}, ValueError),
        ("rows", {"rows": whole(0).view(1, 1)}, ValueError),
        ("rows", {"rows": torch.ones(ROWS, dtype=torch.bool)}, ValueError),
        ("rows", {"rows": [0]}, ValueError),
        ("rows", {"rows": zeros(1, dtype=torch.int64, device="meta")}, ValueError),
        ("rows", {"rows": whole(ROWS)}, IndexError),
        ("rows", {"rows": whole(-1)}, IndexError),
        ("rows", {"rows": whole(ROWS, dtype=torch.int32)}, IndexError),
    ]


def for_one_row(bad: list[Bad]) -> list[Bad]:
    """With weights for one chosen row."""
    return [(name, {"weights": torch.ones(1, 1), **change}, error) for name, change, error in bad]


def bad_guides(name: str) -> list[Bad]:
    return [
        (name, {name: []}, ValueError),
        (name, {name: [logits()] * 17}, ValueError),
        (name, {name: [zeros(ROWS, VOCAB + 1)]}, ValueError),
        (name, {name: [zeros(ROWS - 1, VOCAB)]}, ValueError),
        (name, {name: zeros(VOCAB)}, ValueError),
        (name, {name: [zeros(ROWS, VOCAB, dtype=torch.float64)]}, ValueError),
        (name, {name: [logits(), logits(torch.bfloat16)]}, ValueError),
        (name, {name: [zeros(ROWS, VOCAB, device="meta")]}, ValueError),
    ]


def bad_per_row(name: str) -> list[Bad]:
    return [
        (name, {name: NAN}, ValueError),
        (name, {name: zeros(ROWS - 1)}, ValueError),
        (name, {name: zeros(ROWS, 1)}, ValueError),
        (name, {name: zeros(ROWS, dtype=torch.int64)}, ValueError),
        (name, {name: torch.tensor([0.5, NAN, 0.5, 0.5])}, ValueError),
        (name, {name: zeros(ROWS, device="meta")}, ValueError),
        (name, {name: "1"}, ValueError),
    ]


def bad_keys() -> list[Bad]:
    return [
        ("keys", {"keys": zeros(TOKENS, DIM)}, ValueError),
        ("keys", {"keys": pages()}, ValueError),
        ("keys", {"keys": zeros(TOKENS, HEADS, 0)}, ValueError),
        ("keys", {"keys": zeros(TOKENS, HEADS, DIM, dtype=torch.float64)}, ValueError),
        ("keys", {"keys": zeros(TOKENS, HEADS, DIM, dtype=torch.int8)}, ValueError),
        ("keys", {"block_table": whole(0, 1, 2)}, ValueError),
    ]


def bad_pages(name: str) -> list[Bad]:
    """Of operators that take `length`; `name` is the argument that pages replace."""
    bad: list[Bad] = [
        ("block_table", {"block_table": zeros(3)}, ValueError),
        ("block_table", {"block_table": whole(0, 1).view(1, 2)}, ValueError),
        ("block_table", {"block_table": [0, 1, 2]}, ValueError),
        ("block_table", {"block_table": whole(0, 3, 1)}, IndexError),
        ("block_table", {"block_table": whole(-1, 0, 1)}, IndexError),
        ("length", {"block_table": whole(0, 1), "length": 9}, ValueError),
    ]
    return [(argument, {name: pages(), **change}, error) for argument, change, error in bad]


def bad_lengths() -> list[Bad]:
    return [("length", {"length": bad}, ValueError) for bad in (0, -1, TOKENS + 1, 3.0, True)]


BAD: dict[str, list[Bad]] = {
    "entropy": bad_logits("logits") + bad_rows(),
    "fuse_logits_": [
        *bad_logits("base"),
        *for_one_row(bad_rows()),
        *bad_guides("guides"),
        *bad_per_row("alpha"),
        *bad_per_row("gate"),
        ("base", {"base": zeros(1, VOCAB).expand(ROWS, VOCAB)}, ValueError),
        ("alpha", {"alpha": 1.5}, ValueError),
        ("alpha", {"alpha": -0.1}, ValueError),
        ("alpha", {"alpha": torch.tensor([0.0, 0.1, 1.0, 1.1])}, ValueError),
        ("weights", {"weights": torch.ones(2, ROWS)}, ValueError),
        ("weights", {"weights": torch.ones(ROWS)}, ValueError),
        ("weights", {"weights": torch.ones(1, ROWS, dtype=torch.int64)}, ValueError),
        ("weights", {"weights": [[1.0] * ROWS]}, ValueError),
        ("weights", {"weights": torch.tensor([[0.0, 1.0, INF, 1.0]])}, ValueError),
        ("weights", {"weights": torch.tensor([[0.0, NAN, 1.0, 1.0]])}, ValueError),
        ("weights", {"weights": zeros(1, ROWS, device="meta")}, ValueError),
        ("weights", {"weights": torch.ones(1, ROWS), "rows": whole(0)}, ValueError),
        ("rows", {"weights": torch.ones(1, 3), "rows": whole(2, 0, 2)}, ValueError),
    ],
    "dynamic_fusion": [
        *bad_logits("large"),
        *bad_guides("experts"),
        *bad_per_row("gate"),
        ("small", {"small": zeros(ROWS, VOCAB + 1)}, ValueError),
        ("small", {"small": logits(torch.bfloat16)}, ValueError),
        ("small", {"small": zeros(ROWS, VOCAB, device="meta")}, ValueError),
        ("grid", {"grid": []}, ValueError),
        ("grid", {"grid": [0.0] * 65}, ValueError),
        ("grid", {"grid": [0.0, NAN]}, ValueError),
        ("grid", {"grid": [INF]}, ValueError),
        ("grid", {"grid": torch.tensor([0.0, -INF])}, ValueError),
        ("grid", {"grid": zeros(2, 2)}, ValueError),
        ("grid", {"grid": whole(0, 1)}, ValueError),
        ("grid", {"grid": zeros(2, device="meta")}, ValueError),
    ],
    "dynamic_fusion_": [
        *bad_rows(),
        ("large", {"large": zeros(ROWS, 1).expand(ROWS, VOCAB)}, ValueError),
        ("gate", {"gate": zeros(ROWS), "rows": whole(0)}, ValueError),
        ("rows", {"rows": whole(1, 1)}, ValueError),
    ],
    "pikl": [
        ("generator", {"generator": zeros(3, 3, 5)}, ValueError),
        ("generator", {"generator": zeros(2, 5)}, ValueError),
        ("generator", {"generator": zeros(3, 2, 0), "discriminator": zeros(3, 0, 2)}, ValueError),
        ("generator", {"generator": zeros(3, 2, 5, dtype=torch.float16)}, ValueError),
        ("discriminator", {"discriminator": zeros(3, 2, 5)}, ValueError),
        ("discriminator", {"discriminator": zeros(2, 5, 2)}, ValueError),
        ("discriminator", {"discriminator": zeros(3, 5, 2, dtype=torch.float64)}, ValueError),
        ("discriminator", {"discriminator": zeros(3, 5, 2, device="meta")}, ValueError),
        *[("eta", {"eta": bad}, ValueError) for bad in (0.0, -0.1, NAN, INF, (0.1, 0.0), (0.1,), "0.1")],
        *[("lam", {"lam": bad}, ValueError) for bad in (-0.1, NAN, INF, (0.1, -1.0), (0.1, 0.1, 0.1))],
        *[("iterations", {"iterations": bad}, ValueError) for bad in (-1, 1.5, True)],
        ("lengths", {"lengths": whole(5, 5)}, ValueError),
        ("lengths", {"lengths": zeros(3)}, ValueError),
        ("lengths", {"lengths": zeros(3, dtype=torch.int64, device="meta")}, ValueError),
        ("lengths", {"lengths": whole(5, 0, 5)}, IndexError),
        ("lengths", {"lengths": whole(5, 6, 5)}, IndexError),
        ("lengths", {"lengths": whole(5, -1, 5)}, IndexError),
    ],
    "adjacent_similarity": bad_keys() + bad_pages("keys") + bad_lengths(),
    "window_scores": [
        *bad_keys(),
        *bad_pages("keys"),
        *bad_lengths(),
        ("query", {"query": zeros(TOKENS + 1, 4, DIM)}, ValueError),
        ("query", {"query": zeros(3, 4, DIM), "length": 2}, ValueError),
        ("query", {"query": zeros(0, 4, DIM)}, ValueError),
        ("query", {"query": zeros(3, 3, DIM)}, ValueError),
        ("query", {"query": zeros(3, 0, DIM)}, ValueError),
        ("query", {"query": zeros(3, 4, DIM + 1)}, ValueError),
        ("query", {"query": zeros(4, DIM)}, ValueError),
        ("query", {"query": zeros(3, 4, DIM, dtype=torch.bfloat16)}, ValueError),
        ("query", {"query": zeros(3, 4, DIM, device="meta")}, ValueError),
        *[("scale", {"scale": bad}, ValueError) for bad in (NAN, INF, "1")],
    ],
    "merge_segments": [
        ("similarity", {"similarity": zeros(11)}, ValueError),
        ("similarity", {"similarity": zeros(2, 11, dtype=torch.float64)}, ValueError),
        ("scores", {"scores": zeros(2, 11)}, ValueError),
        ("scores", {"scores": zeros(3, 12)}, ValueError),
        ("scores", {"scores": zeros(2, 12, dtype=torch.bfloat16)}, ValueError),
        ("scores", {"scores": zeros(2, 12, device="meta")}, ValueError),
        *[("slots", {"slots": bad}, ValueError) for bad in (0, -1, 4, 13, 6.0, True)],
        ("slots", {"slots": 8, "heavy": 2}, ValueError),
        ("sinks", {"sinks": -1}, ValueError),
        ("heavy", {"heavy": -1}, ValueError),
    ],
    "merge_kv_": [
        *bad_keys()[3:],
        ("keys", {"keys": zeros(TOKENS, DIM), "values": zeros(TOKENS, DIM)}, ValueError),
        ("keys", {"keys": zeros(1, HEADS, DIM).expand(TOKENS, -1, -1)}, ValueError),
        ("values", {"values": zeros(1, HEADS, DIM).expand(TOKENS, -1, -1)}, ValueError),
        ("values", {"values": zeros(TOKENS, HEADS, DIM + 1)}, ValueError),
        ("values", {"values": keys(torch.bfloat16)}, ValueError),
        ("values", {"values": zeros(TOKENS, HEADS, DIM, device="meta")}, ValueError),
        ("scores", {"scores": zeros(HEADS, TOKENS - 1)}, ValueError),
        ("scores", {"scores": zeros(HEADS, TOKENS, dtype=torch.float16)}, ValueError),
        ("segments", {"segments": segments().long()}, ValueError),
        ("segments", {"segments": segments()[:1]}, ValueError),
        ("segments", {"segments": segments()[0]}, ValueError),
        ("segments", {"segments": segments() + 1}, IndexError),
        ("segments", {"segments": segments() - 1}, IndexError),
        ("segments", {"segments": segments().flip(1)}, IndexError),
        ("segments", {"segments": segments() // 2 * 2}, IndexError),
        *[("slots", {"slots": bad}, ValueError) for bad in (0, TOKENS + 1, 6.0)],
        *[("sigma", {"sigma": bad}, ValueError) for bad in (0.0, -1.0, NAN, INF, "5")],
        *[
            ("block_table", {"keys": pages(), "values": pages(), "block_table": table}, error)
            for table, error in ((zeros(3), ValueError), (whole(0, 1, 3), IndexError))
        ],
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_the_good_arguments_are_accepted(name: str) -> None:
    getattr(ops, name)(**GOOD[name]())


CASES = [
    pytest.param(name, *bad, id=f"{name}-{bad[0]}-{i}")
    for name, table in BAD.items()
    for i, bad in enumerate(table)
]


@pytest.mark.parametrize(("name", "argument", "change", "error"), CASES)
def test_a_bad_argument_is_refused_by_name(
    name: str, argument: str, change: dict[str, Any], error: type[Exception]
) -> None:
    arguments = {**GOOD[name](), **change}
    tensors = [one for one in arguments.values() if isinstance(one, Tensor) and one.device.type == "cpu"]
    before = [one.clone() for one in tensors]
    with pytest.raises(error, match=rf"\b{argument}\b") as raised:
        getattr(ops, name)(**arguments)
    assert raised.type is error
    for mine, same in zip(tensors, before, strict=True):
        cases.same_bits(mine, same)
