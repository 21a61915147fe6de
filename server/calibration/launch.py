"""A server of the calibration's own: started on loopback, and gone afterwards whatever happens."""

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Final

import httpx

from server.calibration.errors import CalibrationError
from server.calibration.settings import KEY_VARIABLE

LOOK_SECONDS: Final = 0.3
STOP_SECONDS: Final = 20.0
TAIL: Final = 15  # lines of its log to show where it does not start
PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class Running:
    url: str
    key: str


@asynccontextmanager
async def running(config: Path | None) -> AsyncIterator[Running]:
    """`decant serve` with this configuration, ready. Raises CalibrationError if it does not start."""
    key, port = token_hex(16), _free_port()
    with tempfile.TemporaryFile() as log:
        process = _start(config, key, port, log.fileno())
        try:
            url = f"http://127.0.0.1:{port}"
            while not await _ready(url):
                if process.poll() is not None:
                    log.seek(0)
                    tail = log.read().decode(errors="replace").splitlines()[-TAIL:]
                    raise CalibrationError("\n".join(["the server did not start; it said:", *tail]))
                await asyncio.sleep(LOOK_SECONDS)
            yield Running(url, key)
        finally:
            _stop(process)


def _start(config: Path | None, key: str, port: int, log: int) -> "subprocess.Popen[bytes]":
    command = [str(Path(sys.executable).with_name("decant")), "serve"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--config", str(config)] if config else []
    environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    return subprocess.Popen(
        command,
        env={**environment, "DECANT_API_KEYS": json.dumps([key])},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # Ctrl-C is ours; the server is ended at the end
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent is killed."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def _ready(url: str) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
            return (await http.get(f"{url}/ready")).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.terminate()
        process.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
