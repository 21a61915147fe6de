"""Runs the CUDA operators emulated on the CPU: `python -m tests.kernels.emulator.run FOLDER WHAT`.

FOLDER holds the library of `build_operators`. WHAT is `accuracy`, which is the operators' tests under several
schedules, or an argument of `test_fallback.BAD`, with which out of range its operator is called.
"""

import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from kernels import native
from kernels.schemas import NAMESPACE

TESTS = (
    "entropy",
    "fuse_logits",
    "dynamic_fusion",
    "pikl",
    "adjacent_similarity",
    "window_scores",
    "slot_attention",
    "merge",
    "determinism",
)
# By seed of the schedule: which of the tests run.
SCHEDULES = {1: "", 2: "not (50257 or 128256 or 262144 or 5000)"}


def accuracy() -> int:
    torch.set_num_threads(1)
    # Memory that was never written then holds NaN.
    torch.use_deterministic_algorithms(True)
    library = ctypes.CDLL(str(native.path("CPU")))
    files = [str(Path(__file__).parents[1] / f"test_{name}.py") for name in TESTS]
    # Without tests/conftest.py and its engines; uncaptured, for what is said before the process dies.
    options = ["--noconftest", "-p", "tests.kernels.conftest", "-p", "no:cacheprovider", "-v", "-s"]
    for seed, selection in SCHEDULES.items():
        library.emulator_seed(ctypes.c_uint64(seed))
        if failed := pytest.main([*options, "-k", selection, *files]):
            return int(failed)
    return 0


def out_of_range(argument: str) -> int:
    from tests.kernels.test_fallback import BAD

    name, arguments = BAD[argument]
    getattr(getattr(torch.ops, NAMESPACE), name)(*arguments)
    return 0


def main() -> int:
    folder, what = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    native.LIBRARIES = Path(folder)
    from kernels import ops  # noqa: F401

    assert native.status()["CPU"].native, native.status()
    return accuracy() if what == "accuracy" else out_of_range(what)


if __name__ == "__main__":
    sys.exit(main())
