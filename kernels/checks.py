"""Checks of the operators' arguments: each error names the argument, says what it is and what is allowed."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
GRID = tuple(i / 10 for i in range(21))


def logits(name: str, tensor: Tensor) -> None:
    """`[rows, vocab]` in a logits dtype, with at least one token."""
    floats(name, tensor)
    dims(name, tensor, 2, "[rows, vocab]")
    if tensor.shape[1] < 1:
        raise ValueError(
            f"{name} has no vocabulary: its shape is {shape(tensor)}, [rows, vocab] with vocab >= 1 is needed"
        )


def floats(name: str, tensor: Tensor, allowed: tuple[torch.dtype, ...] = FLOATS) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} is a {type(tensor).__name__}; a tensor is needed")
    if tensor.dtype not in allowed:
        raise ValueError(f"{name} has dtype {dtype(tensor)}; allowed: {', '.join(map(short, allowed))}")


def dims(name: str, tensor: Tensor, count: int, wanted: str) -> None:
    if tensor.dim() != count:
        raise ValueError(f"{name} has shape {shape(tensor)}; {wanted} is needed")


def like(name: str, tensor: Tensor, other: Tensor, dtype: torch.dtype | None = None) -> None:
    """As large and on the same device as `other`."""
    floats(name, tensor)
    if tensor.shape != other.shape:
        raise ValueError(
            f"{name} has shape {shape(tensor)}; {shape(other)} is needed, as the first argument has it"
        )
    if dtype is not None and tensor.dtype != dtype:
        raise ValueError(
            f"{name} has dtype {short(tensor.dtype)}; {short(dtype)} is needed, as the others have it"
        )
    same_device(name, tensor, other)


def same_device(name: str, tensor: Tensor, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(
            f"{name} is on {tensor.device}; {other.device} is needed, where the first argument is"
        )


def writable(name: str, tensor: Tensor) -> None:
    """No two elements share memory, so that writing in place means something."""
    if any(step == 0 and size > 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True)):
        raise ValueError(f"{name} is expanded (several elements share memory) and cannot be changed in place")


def dense(tensor: Tensor) -> Tensor:
    """The tensor, or a copy whose last dimension is contiguous."""
    return tensor if tensor.shape[-1] <= 1 or tensor.stride(-1) == 1 else tensor.contiguous()


def dense_or_by_dim(cache: Tensor) -> Tensor:
    """The tensor where a row's elements, or a block's tokens, lie next to each other; else a copy."""
    return cache if cache.stride(-3) == 1 else dense(cache)


@contextmanager
def dense_in_place(tensor: Tensor) -> Iterator[Tensor]:
    """`dense(tensor)`, written back afterwards if it had to be a copy."""
    work = dense(tensor)
    yield work
    if work is not tensor:
        tensor.copy_(work)


def terms(name: str, given: Tensor | Sequence[Tensor], base: Tensor, most: int) -> list[Tensor]:
    """Further logits of base's shape, be it one, a stack or a sequence, as dense `[rows, vocab]` each."""
    if isinstance(given, Tensor):
        if given.dim() not in (2, 3):
            raise ValueError(
                f"{name} has shape {shape(given)}; [rows, vocab] or [{name}, rows, vocab] is needed"
            )
        given = [given] if given.dim() == 2 else given.unbind(0)
    if not 1 <= len(given) <= most:
        raise ValueError(f"{name} are {len(given)}; 1 to {most} are allowed")
    for i, tensor in enumerate(given):
        like(f"{name}[{i}]", tensor, base, dtype=given[0].dtype if i else None)
    return [dense(tensor) for tensor in given]


def row_index(rows: Tensor | None, tensor: Tensor, distinct: bool = False) -> Tensor | None:
    if rows is None:
        return None
    index = integers("rows", rows, tensor, torch.int64)
    in_range("rows", index, 0, len(tensor) - 1)
    if distinct and _readable(index) and len(index.unique()) < len(index):
        raise ValueError(
            "rows names a row twice; distinct rows are needed, because they are changed in place"
        )
    return index


def integers(name: str, index: Tensor, other: Tensor, as_dtype: torch.dtype) -> Tensor:
    """A vector of integers on the same device as `other`, in the dtype the operators take."""
    if not isinstance(index, Tensor) or index.dtype not in (torch.int32, torch.int64):
        given = dtype(index) if isinstance(index, Tensor) else type(index).__name__
        raise ValueError(f"{name} is {given}; an int32 or int64 tensor is needed")
    dims(name, index, 1, "[n]")
    same_device(name, index, other)
    return index.to(as_dtype).contiguous()


def in_range(name: str, index: Tensor, low: int, high: int) -> None:
    """Values of an index lie in low .. high; looked at on a CPU only (see kernels.ops)."""
    if not _readable(index) or not index.numel():
        return
    least, most = (int(value) for value in index.aminmax())
    if least < low or most > high:
        raise IndexError(f"{name} holds {least if least < low else most}; {low} to {high} is allowed")


def per_guide(name: str, weights: Tensor, guides: int, rows: int, base: Tensor) -> Tensor:
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        raise ValueError(f"{name} is no floating-point tensor; [guides, n] = [{guides}, {rows}] is needed")
    if weights.shape != (guides, rows):
        raise ValueError(f"{name} has shape {shape(weights)}; [guides, n] = [{guides}, {rows}] is needed")
    same_device(name, weights, base)
    if _readable(weights) and not bool(weights.isfinite().all()):
        raise ValueError(f"{name} holds a value that is not finite")
    return weights.to(torch.float32).contiguous()


def per_row(
    name: str,
    given: float | Tensor | None,
    rows: int,
    base: Tensor,
    low: float = -math.inf,
    high: float = math.inf,
) -> Tensor | None:
    """A number for every row, or one for each, as float32 `[n]`."""
    if given is None:
        return None
    if not isinstance(given, Tensor):
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not low <= given <= high:
            raise ValueError(
                f"{name} is {given!r}; a number from {low} to {high} or a tensor [{rows}] is needed"
            )
        return torch.full((rows,), float(given), dtype=torch.float32, device=base.device)
    if not given.is_floating_point() or given.shape != (rows,):
        raise ValueError(
            f"{name} is a {dtype(given)} tensor of shape {shape(given)}; a floating-point [{rows}] is needed"
        )
    same_device(name, given, base)
    if _readable(given) and not bool(((given >= low) & (given <= high)).all()):
        raise ValueError(f"{name} holds a value outside {low} to {high}")
    return given.to(torch.float32).contiguous()


def grid(given: Sequence[float] | Tensor | None, base: Tensor) -> Tensor:
    values = GRID if given is None else given
    if isinstance(values, Tensor):
        if not values.is_floating_point() or values.dim() != 1 or not 1 <= len(values) <= 64:
            raise ValueError(
                f"grid is a {dtype(values)} tensor of shape {shape(values)}; 1 to 64 numbers are needed"
            )
        same_device("grid", values, base)
        points = values.to(torch.float32).contiguous()
    else:
        if not 1 <= len(values) <= 64:
            raise ValueError(f"grid has {len(values)} points; 1 to 64 are allowed")
        points = torch.tensor(list(values), dtype=torch.float32, device=base.device)
    if _readable(points) and not bool(points.isfinite().all()):
        raise ValueError("grid holds a value that is not finite")
    return points


def game(generator: Tensor, discriminator: Tensor) -> None:
    allowed = (torch.float32, torch.float64)
    floats("generator", generator, allowed)
    floats("discriminator", discriminator, allowed)
    dims("generator", generator, 3, "[games, 2, candidates]")
    games, two, candidates = generator.shape
    if two != 2 or candidates < 1:
        raise ValueError(
            f"generator has shape {shape(generator)}; [games, 2, candidates] with candidates >= 1 is needed"
        )
    if discriminator.shape != (games, candidates, 2):
        raise ValueError(
            f"discriminator has shape {shape(discriminator)}; [{games}, {candidates}, 2] is needed"
        )
    if discriminator.dtype != generator.dtype:
        raise ValueError(
            f"discriminator has dtype {dtype(discriminator)}; generator's, {dtype(generator)}, is needed"
        )
    same_device("discriminator", discriminator, generator)


def pair(name: str, given: float | tuple[float, float], positive: bool) -> tuple[float, float]:
    values = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    low = "> 0" if positive else ">= 0"
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if len(values) != 2 or not number or value < 0 or (positive and value == 0):
            raise ValueError(f"{name} is {given!r}; a finite number {low}, or two of them, is needed")
    return float(values[0]), float(values[1])


def at_least(name: str, value: int, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} is {value!r}; an integer >= {low} is needed")


def finite(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; a finite number is needed")


def lengths(given: Tensor | None, generator: Tensor) -> Tensor:
    games, _, candidates = generator.shape
    if given is None:
        return torch.full((games,), candidates, dtype=torch.int64, device=generator.device)
    given = integers("lengths", given, generator, torch.int64)
    if given.shape != (games,):
        raise ValueError(f"lengths has shape {shape(given)}; [games] = [{games}] is needed")
    in_range("lengths", given, 1, candidates)
    return given


def sequence(keys: Tensor, block_table: Tensor | None, length: int | None) -> tuple[Tensor | None, int]:
    """The dense block table and the number of tokens of contiguous or paged keys."""
    floats("keys", keys)
    if block_table is None:
        dims("keys", keys, 3, "[tokens, heads, dim], or [blocks, block_size, heads, dim] with a block_table,")
        capacity = keys.shape[0]
    else:
        dims("keys", keys, 4, "[blocks, block_size, heads, dim] (there is a block_table)")
        block_table = integers("block_table", block_table, keys, torch.int32)
        capacity = len(block_table) * keys.shape[1]
    if keys.shape[-1] < 1 or keys.shape[-2] < 1:
        raise ValueError(f"keys has shape {shape(keys)}; at least one head and dim >= 1 are needed")
    length = capacity if length is None else length
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= capacity:
        raise ValueError(
            f"length is {length!r}; 1 to {capacity} is allowed, the tokens that keys and block_table hold"
        )
    if block_table is not None:
        in_range("block_table", block_table[: -(-length // keys.shape[1])], 0, len(keys) - 1)
    return block_table, length


def query(given: Tensor, keys: Tensor, length: int) -> None:
    floats("query", given)
    dims("query", given, 3, "[window, query_heads, dim]")
    window, heads, dim = given.shape
    if not 1 <= window <= length:
        raise ValueError(f"query has a window of {window} tokens; 1 to {length} is allowed, the length")
    if dim != keys.shape[-1]:
        raise ValueError(f"query has dim {dim}; {keys.shape[-1]} is needed, as keys has it")
    if heads < 1 or heads % keys.shape[-2]:
        raise ValueError(
            f"query has {heads} heads; a multiple of the {keys.shape[-2]} heads of keys is needed"
        )
    if given.dtype != keys.dtype:
        raise ValueError(f"query has dtype {dtype(given)}; {dtype(keys)} is needed, as keys has it")
    same_device("query", given, keys)


def mass(given: Tensor, keys: Tensor, length: int) -> None:
    floats("mass", given, (torch.float32,))
    dims("mass", given, 2, "[heads, slots]")
    same_device("mass", given, keys)
    if given.shape[0] != keys.shape[-2] or given.shape[1] > length:
        raise ValueError(
            f"mass has shape {shape(given)}; [{keys.shape[-2]}, at most {length}] is needed, as keys and "
            "length say"
        )


def segmentable(similarity: Tensor, scores: Tensor, slots: int, sinks: int, heavy: int) -> None:
    floats("similarity", similarity, (torch.float32,))
    dims("similarity", similarity, 2, "[heads, tokens - 1]")
    heads, tokens = similarity.shape[0], similarity.shape[1] + 1
    _scores(scores, heads, tokens, similarity)
    at_least("sinks", sinks, 0)
    at_least("heavy", heavy, 0)
    least = min(tokens, sinks + 2 * heavy + 1)
    if isinstance(slots, bool) or not isinstance(slots, int) or not least <= slots <= tokens:
        raise ValueError(
            f"slots is {slots!r}; {least} to {tokens} is allowed: sinks + 2 * heavy + 1 = "
            f"{sinks + 2 * heavy + 1} slots are needed wherever the heavy tokens lie, of {tokens} tokens"
        )


def mergeable(
    keys: Tensor, values: Tensor, scores: Tensor, segments: Tensor, slots: int, sigma: float | None
) -> None:
    floats("keys", keys)
    floats("values", values)
    if values.shape != keys.shape or values.dtype != keys.dtype:
        raise ValueError(
            f"values is {dtype(values)} {shape(values)}; {dtype(keys)} {shape(keys)} is needed, as keys is"
        )
    same_device("values", values, keys)
    writable("keys", keys)
    writable("values", values)
    if not isinstance(segments, Tensor) or segments.dtype != torch.int32:
        raise ValueError("segments is no int32 tensor; what merge_segments returns is needed")
    dims("segments", segments, 2, "[heads, tokens]")
    heads, tokens = segments.shape
    if keys.dim() < 2 or heads != keys.shape[-2] or tokens < 1:
        raise ValueError(
            f"segments has shape {shape(segments)}; [heads, tokens >= 1] is needed, with the heads of keys"
        )
    same_device("segments", segments, keys)
    _scores(scores, heads, tokens, keys)
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= tokens:
        raise ValueError(f"slots is {slots!r}; 1 to {tokens} is allowed")
    _each_slot("segments", segments, slots)
    if sigma is not None and (
        isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not 0 < sigma < math.inf
    ):
        raise ValueError(f"sigma is {sigma!r}; a finite number > 0 or None (adaptive) is needed")


def _each_slot(name: str, segments: Tensor, slots: int) -> None:
    """Every row counts from 0 to slots - 1 without a gap; looked at on a CPU only (see kernels.ops)."""
    if not _readable(segments):
        return
    ends = bool((segments[:, 0] == 0).all() and (segments[:, -1] == slots - 1).all())
    steps = segments.diff(dim=1)
    if not ends or not bool(((steps == 0) | (steps == 1)).all()):
        raise IndexError(
            f"{name} does not count from 0 to {slots - 1} (slots - 1) without a gap in every row"
        )


def _scores(scores: Tensor, heads: int, tokens: int, other: Tensor) -> None:
    floats("scores", scores, (torch.float32,))
    dims("scores", scores, 2, "[heads, >= tokens]")
    if scores.shape[0] != heads or scores.shape[1] < tokens:
        raise ValueError(f"scores has shape {shape(scores)}; [{heads}, >= {tokens}] is needed")
    same_device("scores", scores, other)


def _readable(tensor: Tensor) -> bool:
    """Values are looked at where that costs no wait for a device and breaks no graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def dtype(tensor: Tensor) -> str:
    return short(tensor.dtype)


def short(name: torch.dtype) -> str:
    return str(name).removeprefix("torch.")
