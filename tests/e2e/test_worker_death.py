"""A worker process that dies takes its engine with it, and the engine comes back with a new one."""

import time
from pathlib import Path

import httpx
import psutil

from tests.e2e.client import TEXT, wait_for
from tests.e2e.load import Load
from tests.e2e.process import serving
from tests.e2e.test_restart import BACK, check, engine_of, status


def workers(core: psutil.Process) -> list[psutil.Process]:
    return [p for p in core.children(recursive=True) if "Worker" in " ".join([p.name(), *p.cmdline()])]


def test_a_killed_worker_is_its_engines_death(tmp_path: Path) -> None:
    flags = ("--engine-args", "distributed_executor_backend=mp", "--restart-engines", "1")
    with serving(tmp_path / "log", *flags) as server:
        core = engine_of(server, "small")
        (worker,) = workers(core)
        load = Load(server.url, ("base", "small", "ead"))
        wait_for(lambda: load.begun == {"base", "small", "ead"}, 60, "the streams flow")
        worker.kill()
        killed = time.monotonic()
        wait_for(lambda: status(server, "/ready") == 503, 20, "/ready says so")
        wait_for(lambda: status(server, "/ready") == 200, 2 * BACK, "/ready again")
        assert time.monotonic() - killed < 2 * BACK
        check(load.outcomes(60), "small")
        answer = httpx.post(f"{server.url}/v1/completions", json={**TEXT, "model": "demo:small"}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert not core.is_running()
        assert len(workers(engine_of(server, "small"))) == 1
