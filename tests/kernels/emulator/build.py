"""Compiles CUDA sources for the CPU: with g++, and the emulator in place of CUDA's runtime."""

import hashlib
import platform
import shutil
import sys
from pathlib import Path

import torch

from kernels import build

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
AVAILABLE = sys.platform == "linux" and platform.machine() == "x86_64" and COMPILER is not None
# nvcc unrolls what a pragma asks it to; g++ does not know the pragma.
COMPILE = (
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-unknown-pragmas",
    f"-I{HERE}",
    "-xc++",
)


def build_program(source: Path, target: Path) -> None:
    """Compile one source, which needs no torch, with the emulator. Raises build.BuildError."""
    compiler = str(COMPILER)
    build.compile_and_link([source, HERE / "emulator.cpp"], [compiler, *COMPILE], [compiler], target)


def build_operators(folder: Path) -> Path:
    """The CUDA operators as a library that kernels.native loads for the CPU, built in `folder` if need be.

    Raises build.BuildError.
    """
    target, stamp = folder / "libdecant_cpu.so", folder / "digest"
    digest = _digest()
    if target.is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == digest:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    compiler, found = str(COMPILER), build.Torch.find()
    sources = [*sorted((build.SOURCES / "cuda").glob("*.cu")), *sorted(HERE.glob("*.cpp"))]
    compile_ = [compiler, *COMPILE, "-DUSE_CUDA", build.TARGET, f"-isystem{found.include}"]
    link = [
        compiler,
        "-shared",
        "-Wl,--wrap=aoti_torch_library_init_impl",
        "-Wl,--no-as-needed",
        f"-L{found.lib}",
        "-ltorch_cpu",
    ]
    build.compile_and_link(sources, compile_, link, target)
    stamp.write_text(digest, encoding="utf-8")
    return target


def _digest() -> str:
    digest = hashlib.sha256(repr((COMPILER, COMPILE, torch.__version__)).encode())
    for folder in (build.SOURCES / "cuda", HERE):
        for source in sorted(path for path in folder.iterdir() if path.is_file()):
            digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()
