"""The CUDA operators without a GPU: their sources, compiled for the CPU, under the operators' own tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import native
from tests.kernels.emulator.build import AVAILABLE, build_operators, build_program
from tests.kernels.emulator.run import SCHEDULES
from tests.kernels.test_fallback import BAD

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the CUDA emulator needs x86-64 Linux and g++")


@pytest.fixture(scope="module")
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operators' library, kept in pytest's cache until a source changes."""
    kept = getattr(request.config, "cache", None)
    return build_operators(kept.mkdir("emulator") if kept else tmp_path_factory.mktemp("emulator"))


def run(library: Path, what: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != native.SWITCH}
    return subprocess.run(
        [sys.executable, "-m", "tests.kernels.emulator.run", str(library.parent), what],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )


def test_the_operators_pass_their_tests_under_any_schedule(library: Path) -> None:
    done = run(library, "accuracy")
    said = done.stdout[-8000:] + done.stderr[-8000:]
    assert done.returncode == 0, said
    passed = [int(count) for count in re.findall(r"^=+ (\d+) passed", done.stdout, re.MULTILINE)]
    assert len(passed) == len(SCHEDULES), said
    assert min(passed) > 150, said


@pytest.mark.parametrize("argument", BAD)
def test_an_index_out_of_range_fails_a_device_assertion(library: Path, argument: str) -> None:
    done = run(library, argument)
    assert done.returncode < 0, done.stderr
    assert re.search(f'Assertion .*"{argument} holds an? .* out of range"', done.stderr)


# Each is to give thread i the number i + 2, and the last one 1.
RIGHT = "held[i] = i + 1; __syncthreads(); to[i] = held[next];"
WRONG = (
    "held[i] = i + 1; to[i] = held[next];",
    "held[i] = i + 1; __syncthreads(); to[i] = held[next]; held[i] = -1;",
)
# And what is said as they die.
FATAL = {
    "if (i != 5) __syncthreads();": "a thread ends while .* barrier|a barrier after .* ended",
    "if (i % 32 < 9) __syncthreads(); else __syncwarp();": "barrier",
    "if (i % 32 < 9) to[i] = __shfl_xor_sync(~0u, next, 0);": "deadlock",
    "to[i] = __shfl_xor_sync(~0u, next, i % 32 < 9);": "different collectives",
    "to[i] = __shfl_xor_sync(511u, next, 0);": "less than a warp",
    'assert(i < 9 && "too far"); to[i] = next;': "Assertion .*too far",
}
TURN = "static int turn; to[i] = turn++;"
BODIES = [RIGHT, *WRONG, *FATAL, TURN]

PROGRAM = """
#include <cuda_runtime.h>

#include <cassert>
#include <cstdio>
#include <cstdlib>

extern "C" void emulator_seed(uint64_t seed);

constexpr int kThreads = 64;

KERNELS

int main(int, char** arguments) {
  void (*const kernels[])(int*) = {NAMES};
  int result[kThreads] = {};
  emulator_seed(std::strtoul(arguments[2], nullptr, 10));
  cudaLaunchConfig_t config;
  config.blockDim = kThreads;
  cudaLaunchKernelEx(&config, kernels[std::atoi(arguments[1])], result);
  for (const int one : result) std::printf("%d ", one);
}
"""
KERNEL = """
__global__ void NAME(int* to) {
  [[maybe_unused]] __shared__ int held[kThreads];
  [[maybe_unused]] const int i = threadIdx.x, next = (i + 1) % kThreads;
  BODY
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels")
    source, target = folder / "kernels.cu", folder / "kernels"
    names = [f"kernel_{i}" for i in range(len(BODIES))]
    kernels = [
        KERNEL.replace("NAME", name).replace("BODY", body) for name, body in zip(names, BODIES, strict=True)
    ]
    text = PROGRAM.replace("KERNELS", "".join(kernels)).replace("NAMES", ", ".join(names))
    source.write_text(text, encoding="utf-8")
    build_program(source, target)
    return target


def run_kernel(program: Path, body: str, seed: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), str(BODIES.index(body)), str(seed)],
        capture_output=True,
        text=True,
        cwd=program.parent,
        check=False,
    )


def numbers(program: Path, body: str, seed: int) -> list[int]:
    done = run_kernel(program, body, seed)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.parametrize("seed", range(12))
def test_the_emulator_shows_a_missing_barrier(program: Path, seed: int) -> None:
    wanted = [*range(2, 65), 1]
    assert numbers(program, RIGHT, seed) == wanted
    for body in WRONG:
        assert numbers(program, body, seed) != wanted, body


@pytest.mark.parametrize("body", FATAL)
def test_the_emulator_dies_of_what_a_gpu_would_hang_or_die_of(program: Path, body: str) -> None:
    for seed in range(12):
        done = run_kernel(program, body, seed)
        assert done.returncode < 0, done.stdout
        assert re.search(FATAL[body], done.stderr), done.stderr


def test_a_seed_chooses_the_order_of_the_threads(program: Path) -> None:
    orders = [numbers(program, TURN, seed) for seed in range(12)]
    assert orders == [numbers(program, TURN, seed) for seed in range(12)]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len({*map(tuple, orders)}) > 3
