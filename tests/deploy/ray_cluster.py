"""A local Ray cluster that serves deploy/ray, as a process group of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from deploy.loadtest.servers import free_port
from deploy.ray.proxy import IMPORT_PATH, VARIABLE
from tests.e2e.process import ROOT, environment, survivors

SERVE = Path(sys.executable).with_name("serve")
START_SECONDS = 600.0
TITLE = "ServeReplica:decant"  # how Ray names the process of a replica


class Cluster:
    """`serve run` on deploy/ray/local.yaml with other settings, on a free port."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        config = yaml.safe_load((ROOT / "deploy/ray/local.yaml").read_text(encoding="utf-8"))
        self.port = config["http_options"]["port"] = free_port()
        config["applications"][0]["args"]["settings"] = settings
        path = folder / "serve.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        self.log = folder / "ray.log"
        # Sockets lie below it, and their paths may have 107 characters; tokens of Ray's lie in the home.
        self.home = tempfile.mkdtemp(prefix="ray-")
        variables = {
            "HOME": self.home,
            "PYTHONPATH": str(ROOT),
            "RAY_ADDRESS": "local",
            "RAY_TMPDIR": self.home,
            "RAY_USAGE_STATS_ENABLED": "0",
            VARIABLE: IMPORT_PATH,
        }
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(SERVE), "run", str(path)],
                cwd=ROOT,
                env={**environment(keep=()), **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started: set[psutil.Process] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tail(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-60:])

    def processes(self) -> list[psutil.Process]:
        if self.process.poll() is not None:
            return []
        found = psutil.Process(self.process.pid).children(recursive=True)
        self.started.update(found)
        return found

    def replicas(self) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if any(TITLE in part for part in process.cmdline()):
                    found.append(process)
        return found

    def wait_until_ready(self, replicas: int, headers: dict[str, str]) -> None:
        """Until `replicas` tell their metrics."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.tail()
            with suppress(httpx.HTTPError):
                if len(replicas_told(self.url, headers)) == replicas:
                    return
            time.sleep(0.5)
        raise AssertionError(f"not ready after {START_SECONDS:g} s:\n{self.tail()}")

    def engines(self) -> list[psutil.Process]:
        return [p for p in self.processes() if "EngineCore" in " ".join([p.name(), *p.cmdline()])]

    def stop(self) -> list[psutil.Process]:
        """End it; the processes that would not end (which are killed)."""
        if self.process.returncode is not None:
            return []
        self.processes()
        self.process.send_signal(signal.SIGTERM)  # a shell's background jobs may ignore SIGINT
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        left = survivors(list(self.started), within=30)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        shutil.rmtree(self.home, ignore_errors=True)
        return left


def replicas_told(url: str, headers: dict[str, str]) -> set[str]:
    """The replicas whose samples stand in /metrics."""
    response = httpx.get(f"{url}/metrics", headers=headers, timeout=30)
    lines = response.text.splitlines() if response.status_code == 200 else []
    return {
        line.split('replica="')[1].split('"')[0] for line in lines if line.startswith("decant_engine_up{")
    }


@contextmanager
def cluster(folder: Path, settings: dict[str, Any]) -> Iterator[Cluster]:
    """A cluster, gone afterwards with all that it started."""
    running = Cluster(folder, settings)
    try:
        yield running
    finally:
        running.stop()
