"""Builds the native libraries from `kernels/csrc`: `python -m kernels.build [cpu] [cuda]`.

The libraries use libtorch's stable ABI, for torch 2.11 and later, and no Python API: one build serves every
such torch and any Python. The CPU library needs a C++17 compiler (`CXX`, else c++), the CUDA one nvcc
(`CUDA_HOME`, else on PATH, else /usr/local/cuda), and no GPU. What came of it is recorded in
`kernels/lib/build.json`.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "csrc"
# TORCH_TARGET_VERSION: major, minor and patch in the top three bytes; calls newer than this do not compile.
TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"
CPU_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-Wall",
    "-Wno-maybe-uninitialized",
)
# No -march: kernels/csrc/cpu compiles its loops for several instruction sets and picks one when loaded.
CUDA_ARCHITECTURES = (
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
)
CUDA_FLAGS = (
    "-std=c++17",
    "-O3",
    "-DUSE_CUDA",
    "--expt-relaxed-constexpr",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall",
    *CUDA_ARCHITECTURES,
)


class BuildError(Exception):
    """A library could not be built; the message says why, with the compiler's output."""


@dataclass(frozen=True)
class Torch:
    """Where torch's headers and libraries lie."""

    include: Path
    lib: Path

    @classmethod
    def find(cls) -> "Torch":
        try:
            import torch
        except ImportError:
            raise BuildError(
                "torch is not installed where the build runs: install torch first, then decant with "
                "'pip install --no-build-isolation'"
            ) from None
        version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
        if version < (2, 11):
            raise BuildError(f"torch {torch.__version__} is too old: the libraries need 2.11 or later")
        root = Path(torch.__file__).parent
        return cls(root / "include", root / "lib")


def build_cpu(target: Path, torch: Torch) -> str:
    """Build the CPU library; the outcome in words. Raises BuildError."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler:
        raise BuildError("no C++ compiler found: set CXX or install g++")
    sources = sorted((SOURCES / "cpu").glob("*.cpp"))
    compile_ = [compiler, *CPU_FLAGS, TARGET, f"-isystem{torch.include}"]
    link = [compiler, "-shared", "-Wl,--no-as-needed", f"-L{torch.lib}", "-ltorch_cpu"]
    compile_and_link(sources, compile_, link, target)
    return f"built with {compiler}"


def build_cuda(target: Path, torch: Torch) -> str:
    """Build the CUDA library; the outcome in words. Raises BuildError."""
    nvcc = find_nvcc()
    if not nvcc:
        raise BuildError("no nvcc found: set CUDA_HOME or put nvcc on PATH")
    sources = sorted((SOURCES / "cuda").glob("*.cu"))
    if not sources:
        raise BuildError("no CUDA sources")
    compile_ = [nvcc, *CUDA_FLAGS, TARGET, f"-isystem={torch.include}"]
    with tempfile.TemporaryDirectory() as folder:
        # A CPU torch has no libtorch_cuda; an empty one of that name lets the loader find the real one later.
        stub = Path(folder) / "libtorch_cuda.so"
        host = os.environ.get("CXX") or "c++"
        _run([host, "-shared", "-Wl,-soname,libtorch_cuda.so", "-xc", "/dev/null", "-o", str(stub)])
        link = [
            nvcc,
            "-shared",
            *CUDA_ARCHITECTURES,
            "-Xlinker=--no-as-needed",
            f"-L{folder}",
            "-ltorch_cuda",
            f"-L{torch.lib}",
            "-ltorch_cpu",
        ]
        compile_and_link(sources, compile_, link, target)
    return f"built with {nvcc}"


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    candidates = [shutil.which("nvcc", path=f"{home}/bin")] if home else []
    candidates += [shutil.which("nvcc"), shutil.which("nvcc", path="/usr/local/cuda/bin")]
    return next((one for one in candidates if one), None)


BUILDERS = {"CPU": build_cpu, "CUDA": build_cuda}


def build(device: str, folder: Path, force: bool = False) -> dict[str, str | bool]:
    """Build one library into `folder` unless its sources are unchanged. Never raises for a failed build."""
    target = folder / f"libdecant_{device.lower()}.so"
    digest = _digest(device)
    before = _read(folder).get(device, {})
    if not force and target.is_file() and before.get("digest") == digest:
        return before
    folder.mkdir(parents=True, exist_ok=True)
    try:
        record: dict[str, str | bool] = {"built": True, "outcome": BUILDERS[device](target, Torch.find())}
    except BuildError as error:
        target.unlink(missing_ok=True)
        record = {"built": False, "outcome": str(error).splitlines()[0], "detail": str(error)}
    record["digest"] = digest
    (folder / "build.json").write_text(
        json.dumps({**_read(folder), device: record}, indent=1), encoding="utf-8"
    )
    return record


def compile_and_link(sources: Sequence[Path], compile_: list[str], link: list[str], target: Path) -> None:
    """Compile each source with one command and link them with another. Raises BuildError."""
    with tempfile.TemporaryDirectory() as folder:
        objects = [str(Path(folder) / f"{source.stem}.o") for source in sources]
        jobs = [
            [*compile_, "-c", str(source), "-o", out] for source, out in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(_run, jobs))
        # A process that has the old library loaded keeps it: the new one is moved into its place.
        fresh = target.with_suffix(f".{os.getpid()}")
        _run([*link, *objects, "-o", str(fresh)])
        fresh.replace(target)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        output = done.stdout + done.stderr
        errors = [line for line in output.splitlines() if "error" in line.lower()] or output.splitlines()[-1:]
        raise BuildError(
            f"{Path(command[0]).name} failed: {(errors or ['no output'])[0]}\n{' '.join(command)}\n{output}"
        )
    if done.stderr:
        print(done.stderr, file=sys.stderr)


def _digest(device: str) -> str:
    digest = hashlib.sha256(repr((CPU_FLAGS, CUDA_FLAGS, TARGET, os.environ.get("CXX"))).encode())
    for source in sorted((SOURCES / device.lower()).iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


def _read(folder: Path) -> dict[str, dict[str, str | bool]]:
    try:
        return dict(json.loads((folder / "build.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def main() -> int:
    """Build what is asked for, by default the CPU library and, where nvcc is, the CUDA one."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.build", description="Build Decant's native operators."
    )
    parser.add_argument("device", nargs="*", help="default: cpu, and cuda where nvcc is found")
    parser.add_argument("--force", action="store_true", help="build even if the sources have not changed")
    parser.add_argument("--lenient", action="store_true", help="end with 0 even if a library was not built")
    options = parser.parse_args()
    if unknown := set(options.device) - {"cpu", "cuda"}:
        parser.error(f"unknown device {', '.join(sorted(unknown))}; allowed: cpu, cuda")
    devices = [name.upper() for name in options.device] or ["CPU", *(["CUDA"] if find_nvcc() else [])]
    failed = False
    for device in devices:
        record = build(device, HERE / "lib", options.force)
        print(f"decant: {device} operators: {record['outcome']}")
        if not record["built"]:
            failed = True
            print(record.get("detail", ""), file=sys.stderr)
    return int(failed and not options.lenient)


if __name__ == "__main__":
    sys.exit(main())
