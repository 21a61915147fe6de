"""`decant serve` as a process of its own: started, watched, stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

COMMAND = Path(sys.executable).with_name("decant")
ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"serving .* on (https?)://127\.0\.0\.1:(\d+) after")
START_SECONDS = 180.0
TAIL = 60  # lines of the log to show when something went wrong


def environment(keep: tuple[str, ...] = ("DECANT_CONFIG",)) -> dict[str, str]:
    """This process's environment without the DECANT_* variables that are not in `keep`."""
    return {k: v for k, v in os.environ.items() if not k.startswith("DECANT_") or k in keep}


def survivors(processes: list[psutil.Process], within: float = 5.0) -> list[psutil.Process]:
    """Those that still run after `within` seconds; a dead process that nobody has reaped runs no more."""
    deadline = time.monotonic() + within
    while (left := [p for p in processes if _runs(p)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Decant:
    """One server process in a process group of its own, its output in `log`."""

    def __init__(self, log: Path, flags: list[str], environ: Mapping[str, str] | None = None) -> None:
        self.log = log
        self.port = 0
        self.scheme = "http"
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(COMMAND), "serve", "--port", "0", *flags],
                cwd=ROOT,
                env=dict(environment() if environ is None else environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if match := READY.search(self.output()):
                self.scheme, self.port = match.group(1), int(match.group(2))
                return
            if self.process.poll() is not None:
                raise AssertionError(f"the server exited with {self.process.returncode}:\n{self.tail()}")
            time.sleep(0.1)
        raise AssertionError(f"the server was not ready after {seconds:g} s:\n{self.tail()}")

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def tail(self) -> str:
        return "\n".join(self.output().splitlines()[-TAIL:])

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def exit_status(self, within: float) -> int:
        """The exit status, which must come `within` seconds."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within:g} s:\n{self.tail()}") from None

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def engine_cores(self) -> list[psutil.Process]:
        return [p for p in self.descendants() if "EngineCore" in " ".join([p.name(), *p.cmdline()])]

    def stop(self) -> None:
        """End the process and everything it started, whatever state they are in."""
        started = self.descendants() if self.process.poll() is None else []
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for process in survivors(started):
            process.kill()


@contextmanager
def serving(log: Path, *flags: str) -> Iterator[Decant]:
    """A server that is ready, and is gone afterwards."""
    server = Decant(log, list(flags))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()
