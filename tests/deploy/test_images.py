"""The Dockerfiles: hadolint's judgement, and what must hold of any image of Decant. None is built here."""

import fnmatch
import json
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.tools import DEPLOY, ROOT, run

FILES = [ROOT / "Dockerfile", DEPLOY / "Dockerfile.cpu", DEPLOY / "ray/Dockerfile"]
SERVERS = FILES[:2]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined, comments left out."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def last_stage(path: Path) -> list[tuple[str, str]]:
    found = instructions(path)
    start = max(i for i, (name, _) in enumerate(found) if name == "FROM")
    return found[start:]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_hadolint_finds_nothing(path: Path) -> None:
    run("hadolint", "--failure-threshold", "info", path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_base_has_a_version(path: Path) -> None:
    found = instructions(path)
    stages = {argument.split(" AS ")[1] for name, argument in found if name == "FROM" and " AS " in argument}
    defaults = dict(argument.split("=", 1) for name, argument in found if name == "ARG" and "=" in argument)
    for name, argument in found:
        if name == "FROM":
            image = argument.split(" AS ")[0]
            image = defaults[image[2:-1]] if image.startswith("${") else image
            assert image in stages or re.search(r":v?\d+\.\d+\.\d+", image), image


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_does_not_run_as_root(path: Path) -> None:
    users = [argument for name, argument in last_stage(path) if name == "USER"]
    assert users[-1] == "10001:10001"


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_serves_is_watched_and_drains(path: Path) -> None:
    last = dict(last_stage(path))
    assert json.loads(last["ENTRYPOINT"]) == ["decant", "serve"]
    assert last["STOPSIGNAL"] == "SIGTERM"
    check = json.loads(last["HEALTHCHECK"].split("CMD ", 1)[1])
    assert "/health" in check[-1]
    compile(check[-1], "healthcheck", "exec")


def checked(path: Path, port: int, **environ: str) -> bool:
    """Whether an image's health check holds of the server on this port."""
    check = json.loads(dict(last_stage(path))["HEALTHCHECK"].split("CMD ", 1)[1])
    done = subprocess.run(
        [sys.executable, *check[1:]],
        env={"DECANT_PORT": str(port), **environ},
        capture_output=True,
        timeout=30,
        check=False,
    )
    return done.returncode == 0


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that answers everything with `status`: its port, and the targets it was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_health_check_says_what_the_server_says(path: Path) -> None:
    with answering(200) as (port, asked):
        assert checked(path, port)
    assert asked == ["/health"]
    assert not checked(path, port), "nothing listens there any more"
    with answering(503) as (port, asked):
        assert not checked(path, port)
    assert asked == ["/health"]


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_health_check_asks_no_proxy(path: Path) -> None:
    with answering(200) as (port, asked), answering(503) as (proxy, through):
        address = f"http://127.0.0.1:{proxy}"
        assert checked(path, port, http_proxy=address, HTTP_PROXY=address, all_proxy=address)
    assert (asked, through) == (["/health"], [])


def test_what_is_preloaded_is_installed_and_found_on_every_architecture() -> None:
    """A library that the loader does not find costs a line on stderr, and nobody notices."""
    last = last_stage(DEPLOY / "Dockerfile.cpu")
    variables = " ".join(argument for name, argument in last if name == "ENV")
    (library,) = re.findall(r"\bLD_PRELOAD=(\S+)", variables)
    assert library == "libtcmalloc_minimal.so.4"  # no slash: searched where the architecture's libraries lie
    (run_,) = [argument for name, argument in last if name == "RUN"]
    assert "libtcmalloc-minimal4 " in run_  # the package that holds it
    assert run_.endswith(f"&& LD_PRELOAD={library} grep -q tcmalloc /proc/self/maps")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_layer_keeps_a_cache(path: Path) -> None:
    environment = " ".join(argument for name, argument in instructions(path) if name == "ENV")
    for name, argument in instructions(path):
        if name == "RUN" and "pip install" in argument:
            assert "--no-cache-dir" in argument or "PIP_NO_CACHE_DIR=1" in environment
        if name == "RUN" and "apt-get install" in argument:
            assert "rm -rf /var/lib/apt/lists/*" in argument
            assert "--no-install-recommends" in argument


def test_the_context_holds_what_is_copied_and_nothing_secret() -> None:
    kept = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    ]
    for path in FILES:
        for name, argument in instructions(path):
            if name == "COPY" and "--from" not in argument:
                for source in argument.split()[:-1]:
                    source = source.rstrip("/")
                    assert source == "." or any(
                        source == one or source.startswith(f"{one}/") for one in kept
                    ), f"{path.name} copies {source}, which .dockerignore leaves out"
    assert not any(fnmatch.fnmatch("deploy/compose/secrets/api-keys", f"{one}*") for one in kept)
    assert ".git" not in kept


def test_the_image_of_vllm_gets_what_it_lacks_as_the_lock_has_it() -> None:
    def pins(name: str) -> set[str]:
        lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
        return {line for line in lines if line and not line.startswith("#")}

    assert pins("image.txt") <= pins("cpu.txt")


@pytest.mark.parametrize(
    ("has", "asked", "good"), [("cpu cuda", "cpu cuda", True), ("cpu", "cpu cuda", False)]
)
def test_a_wheel_without_operators_ends_the_build(tmp_path: Path, has: str, asked: str, good: bool) -> None:
    with zipfile.ZipFile(tmp_path / "decant-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("kernels/lib/build.json", "{}")
        for device in has.split():
            wheel.writestr(f"kernels/lib/libdecant_{device}.so", "")
    script = DEPLOY / "image/require_operators.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), *asked.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) is good
    assert good or "cuda" in done.stderr
