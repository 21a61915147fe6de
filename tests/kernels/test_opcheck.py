"""The operators as torch sees them: schemas, fake implementations, compilation."""

import pytest
import torch
from torch import Tensor

from kernels import ops
from kernels.schemas import NAMESPACE, SCHEMAS
from tests.kernels import cases
from tests.kernels.samples import samples


def test_every_operator_is_registered_and_has_a_sample() -> None:
    assert set(SCHEMAS) == set(samples(3, 9, 12))
    for name, schema in SCHEMAS.items():
        registered = getattr(torch.ops, NAMESPACE)
        assert str(getattr(registered, name).default._schema) == f"{NAMESPACE}::{name}{schema}"


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", SCHEMAS)
def test_opcheck(name: str, number: int) -> None:
    arguments = samples(3, 9, 12)[name][number]
    torch.library.opcheck(getattr(getattr(torch.ops, NAMESPACE), name), arguments)


@pytest.mark.parametrize("rows", [False, True])
def test_compiled_functions_equal_eager_ones(rows: bool) -> None:
    def guided(base: Tensor, guide: Tensor, weights: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
        scaled = base * 1.5
        opened = ops.fuse_logits_(scaled, guide, weights, True, alpha=0.1, gate=1.0, rows=index)
        return ops.entropy(scaled, index) + opened, scaled

    base, guide = cases.logits(4, 65, seed=1), cases.logits(4, 65, seed=2)
    index = torch.tensor([3, 1]) if rows else None
    weights = torch.ones(1, 2 if rows else 4)
    compiled = torch.compile(guided, fullgraph=True, backend="aot_eager")
    for mine, plain in zip(
        compiled(base, guide, weights, index), guided(base, guide, weights, index), strict=True
    ):
        cases.same_bits(mine, plain)


def test_a_compiled_function_changes_its_argument_in_place() -> None:
    def add(base: Tensor, guide: Tensor, weights: Tensor) -> Tensor:
        return ops.fuse_logits_(base, guide, weights)

    base, guide, weights = cases.logits(4, 65, seed=3), cases.logits(4, 65, seed=4), torch.ones(1, 4)
    mine = base.clone()
    torch.compile(add, fullgraph=True, backend="aot_eager")(mine, guide, weights)
    add(base, guide, weights)
    cases.same_bits(mine, base)
