"""Programs that judge deploy/; what is missing skips a test, and says how to get it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
HOW = {
    "hadolint": "make tools",
    "promtool": "make tools, where apt has Debian's package prometheus; else put promtool on PATH",
    "systemd-analyze": "install systemd",
}


def tool(name: str) -> str:
    """The program's path, beside this Python or on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: {HOW[name]}")
    return found


def run(name: str, *arguments: str | Path, cwd: Path = ROOT) -> str:
    """What the program says, which must end well."""
    done = subprocess.run(
        [tool(name), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
