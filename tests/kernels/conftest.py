"""What the operators' tests run on."""

from collections.abc import Iterator

import pytest
import torch

from kernels import native

# Without a native library what is tested is the fallback.
RUNS_ON = (native.instruction_sets() or ["reference"]) + ["cuda"] * torch.cuda.is_available()


@pytest.fixture(params=RUNS_ON)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with each instruction set this CPU has, and with its tensors on a GPU if there is one."""
    name: str = request.param
    if name == "cuda":
        with torch.device(name):
            yield name
    elif name == "reference":
        yield name
    else:
        with native.instruction_set(name):
            yield name
