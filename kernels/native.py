"""The native libraries: where they lie, whether they loaded, and which instructions the CPU one uses."""

import ctypes
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

LIBRARIES = Path(__file__).parent / "lib"
RECORD = LIBRARIES / "build.json"
SWITCH = "DECANT_KERNELS"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """What runs the operators on one kind of device.

    device: torch's dispatch key, CPU or CUDA. native: whether the library is loaded. reason: how it runs, or
    why it does not. needed: whether operators would be called on this device here.
    """

    device: str
    native: bool
    reason: str
    needed: bool

    @property
    def sound(self) -> bool:
        """Native where it is needed, or plain torch because that was asked for."""
        return self.native or not self.needed or _reference_wanted()

    def __str__(self) -> str:
        kind = "native" if self.native else "plain torch" if self.needed else "not used"
        return f"{self.device} {kind} ({self.reason})"


@cache
def status() -> dict[str, Status]:
    """Load what can be loaded, once a process. Where a needed library is missing: one warning."""
    found = {"CPU": _load_cpu(), "CUDA": _load_cuda()}
    missing = [one for one in found.values() if one.needed and not one.native]
    if missing:
        why = "; ".join(f"{one.device}: {one.reason}" for one in missing)
        log.warning("decoding operators run as plain torch, correct but slow. %s", why)
    return found


def path(device: str) -> Path:
    return LIBRARIES / f"libdecant_{device.lower()}.so"


def _load_cpu() -> Status:
    reason = _load("CPU")
    if reason:
        return Status("CPU", False, reason, True)
    return Status("CPU", True, f"{path('CPU').name}, {instructions()}", True)


def _load_cuda() -> Status:
    if not torch.cuda.is_available():
        return Status("CUDA", False, "no GPU that this torch can use", False)
    reason = _load("CUDA")
    return Status("CUDA", not reason, reason or path("CUDA").name, True)


def _load(device: str) -> str:
    """Why the library of this device is not loaded; an empty string when it is."""
    if _reference_wanted():
        return f"{SWITCH}=reference asks for it"
    library = path(device)
    if not library.is_file():
        return (
            f"{_build_failure(device)}; 'python -m kernels.build' tries again and shows the compiler's output"
        )
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        return f"{library.name} does not load: {str(error).splitlines()[0]}"
    return ""


def _reference_wanted() -> bool:
    wanted = os.environ.get(SWITCH, "native")
    if wanted not in ("native", "reference"):
        raise ValueError(f"{SWITCH} is {wanted!r}; native and reference are allowed")
    return wanted == "reference"


def _build_failure(device: str) -> str:
    try:
        return str(json.loads(RECORD.read_text(encoding="utf-8"))[device]["outcome"])
    except (OSError, ValueError, KeyError):
        return "not built"


@cache
def _cpu() -> ctypes.CDLL:
    library = ctypes.CDLL(str(path("CPU")))
    library.decant_cpu_instructions.restype = ctypes.c_char_p
    library.decant_cpu_use.argtypes = [ctypes.c_char_p]
    return library


def instructions() -> str:
    """The instruction set that the CPU library runs with: avx512, avx2 or baseline."""
    return str(_cpu().decant_cpu_instructions().decode())


def instruction_sets() -> list[str]:
    """Those that this CPU can run, best first; none without the native CPU library."""
    if not status()["CPU"].native:
        return []
    before = instructions()
    able = [name for name in ("avx512", "avx2", "baseline") if _cpu().decant_cpu_use(name.encode())]
    _cpu().decant_cpu_use(before.encode())
    return able


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Run the CPU library with these instructions, for tests and benchmarks. It holds for the whole process.

    Raises ValueError if this CPU cannot.
    """
    able = instruction_sets()
    if name not in able:
        raise ValueError(
            f"instruction set {name!r} cannot be used here; allowed: {', '.join(able) or 'none'}"
        )
    before = instructions()
    _cpu().decant_cpu_use(name.encode())
    try:
        yield
    finally:
        _cpu().decant_cpu_use(before.encode())
