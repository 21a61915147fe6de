"""The two servers under test, and the CPU time they take."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from decoders.engine_process import MARK
from server.environment import variables
from server.models import EMBEDDED_ARGUMENTS

SERVED = "loadtest"
DECANT, VLLM = "decant", "vllm"
DECANT_COMMAND = Path(sys.executable).with_name("decant")
START_SECONDS, STOP_SECONDS = 300.0, 20.0

# What both engines run with: Decant's own arguments for its embedded models.
ENGINE_ARGS: dict[str, Any] = {
    **EMBEDDED_ARGUMENTS,
    "enable_prefix_caching": True,
    "max_logprobs": 20,
    "distributed_executor_backend": "uni",
}


class Failure(Exception):
    """The comparison cannot be made or is not valid; nothing was measured that may be reported."""


@dataclass
class Server:
    """One server process, the leader of its own process group."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 30) -> str:
        """The end of the server's log."""
        text = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"---- the end of {self.name}'s log ----", *text[-lines:]])

    def wait_ready(self) -> None:
        """Return when /health answers 200. Errors: Failure if the server exits or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure(f"{self.name} exited with status {self.process.returncode} while starting")
            try:
                if httpx.get(f"{self.url}/health", timeout=2, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.3)
        raise Failure(f"{self.name} was not ready after {START_SECONDS:.0f} s")

    def stop(self) -> None:
        """Ask the server to end, wait a while, then kill whatever is left of its group."""
        with suppress(subprocess.TimeoutExpired):
            self.process.terminate()
            self.process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def environment(name: str, threads: int) -> dict[str, str]:
    """The servers' environment: the same for both, but that vLLM's is kept clear of Decant's plugin."""
    ours = ("DECANT_", "VLLM_", "OMP_")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    chosen = variables(engines=1, threads_per_engine=threads, vllm_log_level="warning", stop_strings=4)
    del chosen[MARK]  # Decant sets it for itself; vLLM's server is to be as it is
    plugins = {"VLLM_PLUGINS": ""} if name == VLLM else {}
    return {**inherited, **chosen, "HF_HUB_OFFLINE": "1", **plugins}


def command(name: str, model: Path, port: int) -> list[str]:
    """The command line that starts one server."""
    common = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", SERVED]
    if name == DECANT:
        args = ["--engine-args", json.dumps(ENGINE_ARGS)]
        return [str(DECANT_COMMAND), "serve", str(model), *common, "--log-level", "warning", *args]
    flags = [part for key, value in ENGINE_ARGS.items() for part in _flag(key, value)]
    quiet = ["--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"]
    module = "vllm.entrypoints.openai.api_server"
    return [sys.executable, "-m", module, "--model", str(model), *common, *flags, *quiet]


def _flag(key: str, value: Any) -> list[str]:
    flag = f"--{key.replace('_', '-')}"
    if value is True:
        return [flag]
    return [flag, json.dumps(value) if isinstance(value, dict) else str(value)]


@contextmanager
def running(name: str, model: Path, threads: int, folder: Path) -> Iterator[Server]:
    """One server of the comparison; see `launched`."""
    port = free_port()
    with launched(name, command(name, model, port), port, environment(name, threads), folder) as server:
        yield server


@contextmanager
def embedded_models(folder: Path, *flags: str, **environment: str) -> Iterator[Server]:
    """`decant serve` with the embedded models, ready; see `launched`. DECANT_* variables do not reach it,
    those given here do.
    """
    port = free_port()
    arguments = [str(DECANT_COMMAND), "serve", "--port", str(port), *flags]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DECANT_")}
    with launched(DECANT, arguments, port, environ | environment, folder) as server:
        server.wait_ready()
        yield server


@contextmanager
def launched(
    name: str, arguments: Sequence[str], port: int, environ: Mapping[str, str], folder: Path
) -> Iterator[Server]:
    """A server process, stopped at the end whatever happens; its log's end is shown if something went wrong.

    Args:
        name: for messages, and for the log's file in `folder`.
        arguments: the command line, which must make it listen on `port` of the loopback interface.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            start_new_session=True,
        )
    server = Server(name, f"http://127.0.0.1:{port}", process, log)
    try:
        yield server
    except Exception:
        print(server.tail(), file=sys.stderr)
        raise
    finally:
        server.stop()


# ---- CPU time --------------------------------------------------------------------------------------------


def _stat(pid: int) -> tuple[int, float]:
    """A process's parent and the CPU seconds of its threads.

    Read from the scheduler, which counts nanoseconds: the ticks of /proc/PID/stat are samples, and a server
    that wakes in step with the clock is charged too much or too little.
    """
    process = Path(f"/proc/{pid}")
    stat = (process / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    nanoseconds = 0
    for thread in (process / "task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            nanoseconds += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
    return int(stat[1]), nanoseconds / 1e9


def machine_seconds() -> float:
    """CPU seconds the whole machine has been busy so far, by anyone."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq = (int(value) for value in fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(root: int) -> tuple[float, float]:
    """CPU seconds so far of the process `root` alone, and of it with all its descendants."""
    stats: dict[int, tuple[int, float]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stats[int(entry.name)] = _stat(int(entry.name))
            except (OSError, IndexError):
                continue  # it has ended meanwhile
    tree, found = {root}, True
    while found:
        more = {pid for pid, (parent, _) in stats.items() if parent in tree and pid not in tree}
        tree |= more
        found = bool(more)
    return stats[root][1], sum(stats[pid][1] for pid in tree if pid in stats)
