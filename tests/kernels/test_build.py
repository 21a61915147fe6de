"""The native libraries: what they are built from and for, and what happens without them."""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kernels import build, native
from tests.kernels.conftest import RUNS_ON

NVCC = build.find_nvcc()
needs_nvcc = pytest.mark.skipif(not NVCC, reason="no nvcc: the CUDA sources are not compiled here")

WITHOUT = """
import logging, sys
from pathlib import Path
logging.basicConfig(format="LOG %(levelname)s %(message)s")
from kernels import native
native.LIBRARIES = Path(sys.argv[1])
native.RECORD = native.LIBRARIES / "build.json"
import torch
from kernels import ops
for _ in range(2):
    print(ops.entropy(torch.zeros(2, 8)).tolist(), ops.entropy(torch.zeros(1, 4)).tolist())
print(native.status()["CPU"], native.instruction_sets())
"""


NEWER = """
import logging
logging.basicConfig(format="LOG %(levelname)s %(message)s")
import torch
from kernels import reference, registration
registration.SCHEMAS["later"] = "(Tensor x) -> Tensor"
registration.FAKES["later"] = torch.empty_like
reference.later = lambda x: x + 1
from kernels import ops
print(ops.entropy(torch.zeros(2, 8)).tolist(), torch.ops.decant.later(torch.zeros(1)).tolist())
"""


def run_without(folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(build.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["[3.0, 3.0] [2.0]"] * 2
    assert done.stderr.count("LOG WARNING") == 1
    assert "plain torch" in done.stderr
    return done.stdout.splitlines()[2] + done.stderr


def test_the_cpu_library_is_built_and_used() -> None:
    record = build.build("CPU", native.LIBRARIES)
    assert record["built"], record.get("detail")
    assert native.status()["CPU"].native
    assert native.instruction_sets()[-1] == "baseline"
    assert native.instructions() in native.instruction_sets()


def test_a_failed_build_is_recorded_and_plain_torch_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "broken++"
    compiler.write_text(
        "#!/bin/sh\necho 'thing.cpp:1: error: no such feature' >&2\nexit 1\n", encoding="utf-8"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    record = build.build("CPU", tmp_path / "lib")
    assert record["built"] is False
    assert "no such feature" in str(record["outcome"])
    said = run_without(tmp_path / "lib")
    assert "no such feature" in said
    assert "python -m kernels.build" in said


def test_a_failed_build_removes_the_library_of_other_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libdecant_cpu.so").write_bytes(b"of other sources")
    monkeypatch.setenv("CXX", str(tmp_path / "nothing"))
    assert build.build("CPU", tmp_path)["built"] is False
    assert not (tmp_path / "libdecant_cpu.so").exists()


def test_without_a_build_plain_torch_runs(tmp_path: Path) -> None:
    assert "not built" in run_without(tmp_path)


def test_a_library_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "libdecant_cpu.so").write_bytes(b"no library")
    assert "libdecant_cpu.so does not load" in run_without(tmp_path)


def test_what_an_older_library_lacks_runs_as_plain_torch() -> None:
    done = subprocess.run([sys.executable, "-c", NEWER], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[3.0, 3.0] [1.0]"
    assert "older sources: later run as plain torch" in done.stderr


def test_an_unchanged_library_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(native.LIBRARIES, tmp_path / "lib")
    monkeypatch.setitem(build.BUILDERS, "CPU", lambda *_: pytest.fail("built again"))
    assert build.build("CPU", tmp_path / "lib")["built"]


def test_an_old_or_missing_torch_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.10.1")
    with pytest.raises(build.BuildError, match=r"2\.11"):
        build.Torch.find()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(build.BuildError, match="--no-build-isolation"):
        build.Torch.find()


def undefined_symbols(library: Path) -> list[str]:
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    )
    return [line.split()[-1] for line in listed.stdout.splitlines()]


@pytest.mark.parametrize("device", ["CPU", pytest.param("CUDA", marks=needs_nvcc)])
def test_a_library_needs_nothing_of_torch_but_its_stable_interface(device: str) -> None:
    symbols = undefined_symbols(native.path(device))
    ours = [one for one in symbols if one.startswith(("aoti_torch_", "torch_"))]
    assert ours
    # Mangled names of torch's C++ interface, which changes from version to version.
    assert not [one for one in symbols if "3c10" in one or "2at" in one or "5torch" in one]
    assert not [one for one in symbols if one.startswith("Py") or one.startswith("_Py")]


def device_code(library: bytes) -> Iterator[set[tuple[str, int]]]:
    """Kind and architecture of what each fat binary in a library holds: a header, then entries."""
    at = -1
    while (at := library.find(struct.pack("<IH", 0xBA55ED50, 1), at + 1)) >= 0:
        header, size = struct.unpack_from("<HQ", library, at + 6)
        entry, end, held = at + header, at + header + size, set()
        while entry < end:
            kind, length, payload = struct.unpack_from("<H2xIQ", library, entry)
            (architecture,) = struct.unpack_from("<I", library, entry + 28)
            held.add(({1: "ptx", 2: "sass"}[kind], architecture))
            entry += length + payload
        yield held


@needs_nvcc
def test_the_cuda_library_is_built_for_its_architectures() -> None:
    record = build.build("CUDA", native.LIBRARIES)
    assert record["built"], record.get("detail")
    held = list(device_code(native.path("CUDA").read_bytes()))
    wanted = {("sass", 80), ("sass", 90), ("ptx", 90)}
    assert held.count(wanted) >= len(list((build.SOURCES / "cuda").glob("*.cu"))) - 1, held
    assert all(one <= wanted for one in held), held  # linking adds code of its own


def test_the_cuda_operators_run() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU: the CUDA operators are compiled here, not run")
    assert native.status()["CUDA"].native
    assert "cuda" in RUNS_ON


def test_an_instruction_set_this_cpu_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"allowed: .*baseline"), native.instruction_set("avx1024"):
        pass
