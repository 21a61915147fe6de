"""Equal inputs give bit-equal outputs: again, and with another number of threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernels.schemas import NAMESPACE, SCHEMAS
from tests.kernels import cases
from tests.kernels.samples import samples

pytestmark = pytest.mark.usefixtures("isa")

# One row shared out among threads, and more rows than threads.
SIZES = [(1, 100003, 2051), (5, 4099, 100)]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def outputs(name: str, size: tuple[int, int, int]) -> list[Tensor]:
    """What the operator returns and what its tensor arguments, changed or not, hold afterwards."""
    found: list[Tensor] = []
    for arguments in samples(*size)[name]:
        result = getattr(getattr(torch.ops, NAMESPACE), name)(*arguments)
        found += [result] if isinstance(result, Tensor) else result
        if name == "merge_kv_":
            # What lies before the merged tokens is undefined.
            slots, table = arguments[5], arguments[4]
            for memory in arguments[:2]:
                cache = cases.Cache(memory, table, arguments[3].shape[1])
                found.append(cache.tokens()[-slots:])
        else:
            found += [one for one in arguments if isinstance(one, Tensor)]
    return found


@pytest.mark.parametrize("size", SIZES, ids=["one row", "rows"])
@pytest.mark.parametrize("name", SCHEMAS)
def test_equal_inputs_give_equal_bits(name: str, size: tuple[int, int, int]) -> None:
    torch.set_num_threads(1)
    first = outputs(name, size)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for mine, same in zip(outputs(name, size), first, strict=True):
            cases.same_bits(mine, same)
