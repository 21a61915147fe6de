"""Inputs for the operators' tests, random and adversarial, and how results are compared."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

INF = math.inf
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
VOCABULARIES = (1, 7, 1023, 50257, 128256, 262144)
HEAD_DIMS = (1, 32, 80, 128, 256)


def source(seed: int) -> torch.Generator:
    return torch.Generator(device=torch.get_default_device()).manual_seed(seed)


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=source(seed)) * scale).to(dtype)


def permutation(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=source(seed))


def logits(
    rows: int, vocab: int, seed: int, dtype: torch.dtype = torch.float32, scale: float = 3.0
) -> Tensor:
    return randn(rows, vocab, seed=seed, dtype=dtype, scale=scale)


LAYOUTS: dict[str, Callable[[int, int, torch.dtype], Tensor]] = {
    "wide rows": lambda rows, vocab, dtype: torch.empty(rows, vocab + 13, dtype=dtype)[:, :vocab],
    "odd offset": lambda rows, vocab, dtype: torch.empty(rows, vocab + 7, dtype=dtype)[:, 3 : 3 + vocab],
    "every second row": lambda rows, vocab, dtype: torch.empty(2 * rows, vocab, dtype=dtype)[1::2],
    "transposed": lambda rows, vocab, dtype: torch.empty(vocab, rows, dtype=dtype).T,
    "every second token": lambda rows, vocab, dtype: torch.empty(rows, 2 * vocab, dtype=dtype)[:, ::2],
}


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values in memory of another layout, with 7 in what lies around them."""
    view = LAYOUTS[layout](tensor.shape[0], tensor.shape[1], tensor.dtype)
    whole(view).fill_(7)
    return view.copy_(tensor)


def whole(view: Tensor) -> Tensor:
    """All the memory a view lies in."""
    count = view.untyped_storage().nbytes() // view.element_size()
    return view.as_strided((count,), (1,), 0)


def outside(view: Tensor) -> Tensor:
    """What lies around the view in its memory."""
    inside = torch.zeros_like(whole(view), dtype=torch.bool)
    inside.as_strided(view.shape, view.stride(), view.storage_offset()).fill_(True)
    return whole(view)[~inside]


def hard_rows(vocab: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Rows with a distribution that is awkward to compute: `[rows, vocab]`."""
    top = torch.finfo(dtype).max * 0.99
    sprinkled = randn(vocab, seed=seed, scale=3).masked_fill(randn(vocab, seed=seed + 1) > 0, -INF)
    sprinkled[vocab // 2] = 1.0
    one_left = torch.full((vocab,), -INF)
    one_left[-1] = -5.0
    two_tops = torch.full((vocab,), -20.0)
    two_tops[0] = two_tops[-1] = 30.0
    extreme = torch.full((vocab,), -top)
    extreme[vocab // 3] = top
    rows = [
        torch.zeros(vocab),
        torch.full((vocab,), 1e4),
        torch.full((vocab,), -1e4),
        torch.full((vocab,), top),
        torch.full((vocab,), -top),
        randn(vocab, seed=seed + 2, scale=1e4),
        randn(vocab, seed=seed + 3, scale=1e-3),
        randn(vocab, seed=seed + 4, scale=3).round(),
        torch.linspace(-30, 30, vocab),
        sprinkled,
        one_left,
        two_tops,
        extreme,
    ]
    return torch.stack(rows).clamp(-top, top).masked_fill(torch.stack(rows) == -INF, -INF).to(dtype)


def lost_rows(vocab: int, dtype: torch.dtype) -> Tensor:
    """Rows that have no distribution."""
    rows = torch.zeros(4, vocab)
    rows[0] = -INF
    rows[1, vocab // 2] = math.nan
    rows[2, vocab - 1] = INF
    rows[3] = math.nan
    return rows.to(dtype)


@dataclass
class Cache:
    """Keys or values of one sequence in a cache, and where they lie in it."""

    memory: Tensor
    table: Tensor | None
    length: int

    def tokens(self) -> Tensor:
        """A copy of the sequence's rows, `[length, heads, dim]`."""
        if self.table is None:
            return self.memory[: self.length].clone()
        rows = [block for i in self.table.tolist() for block in self.memory[i]]
        return torch.stack(rows[: self.length])

    def others(self) -> Tensor:
        """What the memory holds besides the sequence, as one vector."""
        mine = torch.zeros(self.memory.shape[:-2], dtype=torch.bool)
        if self.table is None:
            mine[: self.length] = True
        else:
            size = self.memory.shape[1]
            for i, block in enumerate(self.table.tolist()):
                mine[block, : max(0, min(size, self.length - i * size))] = True
        return torch.cat([self.memory[~mine].flatten(), outside(self.memory)])


STORAGES = ("contiguous", "longer", "padded", "paged", "head first")


def cache(tokens: Tensor, storage: str, seed: int) -> Cache:
    """Put `[length, heads, dim]` into a cache: contiguous or in shuffled blocks, the last partly filled."""
    length, heads, dim = tokens.shape
    if storage == "contiguous":
        return Cache(tokens.clone(), None, length)
    if storage == "longer":
        memory = torch.cat([tokens, torch.full_like(tokens[:1], 7).expand(3, -1, -1)])
        return Cache(memory, None, length)
    if storage == "padded":
        memory = torch.full((length, heads + 2, dim + 5), 7.0, dtype=tokens.dtype)[:, 1:-1, 3 : 3 + dim]
        return Cache(memory.copy_(tokens), None, length)
    size = 4 if length < 64 else 16
    needed = -(-length // size)
    table = permutation(needed + 3, seed)[:needed].int()
    shape = (needed + 3, size, heads, dim)
    if storage == "head first":
        memory = torch.full((shape[0], heads, size, dim), 7.0, dtype=tokens.dtype).transpose(1, 2)
    else:
        memory = torch.full(shape, 7.0, dtype=tokens.dtype)
    filled = torch.cat([tokens, torch.full_like(tokens[:1], 7).expand(needed * size - length, -1, -1)])
    memory[table.long()] = filled.unflatten(0, (needed, size))
    return Cache(memory, table, length)


def same_bits(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert torch.equal(_bits(actual), _bits(expected))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def close(actual: Tensor, expected: Tensor, atol: float | Tensor, rtol: float = 0.0) -> None:
    """As the float64 `expected`, within a tolerance and a 16-bit dtype's rounding; inf and NaN exactly."""
    assert actual.shape == expected.shape
    if actual.dtype in (torch.float16, torch.bfloat16):
        rtol += torch.finfo(actual.dtype).eps
    wanted = expected.to(actual.dtype).double()
    given = actual.double()
    assert torch.equal(given.isnan(), wanted.isnan())
    special = ~wanted.isfinite()
    assert torch.equal(given[special & ~wanted.isnan()], wanted[special & ~wanted.isnan()])
    error = (given - wanted).abs().masked_fill(special, 0.0)
    excess = error - atol - rtol * wanted.abs().masked_fill(special, 0.0)
    assert not (excess > 0).any(), f"off by {error.max():.3g}, {excess.max():.3g} more than allowed"


def wide(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.double() for tensor in tensors]
