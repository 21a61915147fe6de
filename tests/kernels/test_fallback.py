"""The reference as the fallback it also is: the operators' dtypes, the same results, the same refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import reference
from kernels.schemas import NAMESPACE, SCHEMAS
from tests.kernels import cases
from tests.kernels.samples import samples


def results(run: Any, name: str, number: int) -> list[Tensor]:
    arguments = samples(5, 1023, 100)[name][number]
    given = run(*arguments)
    if name == "merge_kv_":
        # What lies before the merged tokens is undefined.
        changed = [cases.Cache(one, arguments[4], 100).tokens()[-arguments[5] :] for one in arguments[:2]]
    else:
        changed = [arguments[0]]
    return [*([given] if isinstance(given, Tensor) else given), *changed]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", SCHEMAS)
def test_it_gives_what_the_operator_gives(name: str, number: int) -> None:
    mine = results(getattr(reference, name), name, number)
    operators = results(getattr(getattr(torch.ops, NAMESPACE), name), name, number)
    for one, other in zip(mine, operators, strict=True):
        assert one.dtype == other.dtype
        cases.close(one, other.double(), atol=2e-5 * (1 + other.double().abs().nan_to_num(0.0, 0.0, 0.0)))


BAD = {
    "rows": ("entropy", (torch.zeros(2, 3), torch.tensor([2]))),
    "lengths": (
        "pikl",
        (torch.zeros(1, 2, 3), torch.zeros(1, 3, 2), torch.tensor([4]), 0.1, 0.1, 0.1, 0.1, 1),
    ),
    "block_table": ("adjacent_similarity", (torch.zeros(2, 3, 1, 4), torch.tensor([1, -1]).int(), 6)),
    "segments": (
        "merge_kv_",
        (
            torch.zeros(2, 1, 4),
            torch.zeros(2, 1, 4),
            torch.zeros(1, 2),
            torch.tensor([[0, 2]]).int(),
            None,
            2,
            None,
        ),
    ),
}


@pytest.mark.parametrize("argument", BAD)
def test_it_refuses_what_is_out_of_range(argument: str) -> None:
    name, arguments = BAD[argument]
    with pytest.raises(IndexError, match=argument):
        getattr(reference, name)(*arguments)
