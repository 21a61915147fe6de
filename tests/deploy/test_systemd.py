"""The unit file, by systemd's own judgement."""

import re
import signal
import sys
from pathlib import Path

import pytest

from server.config import ServeSettings
from tests.deploy.tools import DEPLOY, run

UNIT = DEPLOY / "systemd/decant.service"
MARGIN = 15  # seconds beyond the drain in which aborted requests and engines end


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists on this machine."""
    path = tmp_path / "decant.service"
    text = UNIT.read_text(encoding="utf-8")
    assert "ExecStart=/opt/decant/bin/decant serve" in text
    path.write_text(text.replace("/opt/decant/bin/decant", sys.executable), encoding="utf-8")
    return path


def options() -> dict[str, str]:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]\w*=", line))


def variables() -> dict[str, str]:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    given = [line.removeprefix("Environment=") for line in lines if line.startswith("Environment=")]
    return dict(one.split("=", 1) for one in given)


def test_systemd_reads_it_without_complaint(unit: Path) -> None:
    assert run("systemd-analyze", "verify", unit) == ""


def test_it_is_exposed_little(unit: Path) -> None:
    said = run("systemd-analyze", "security", "--offline=true", "--threshold=25", unit)
    assert "OK" in said


def test_it_restarts_and_has_longer_to_stop_than_it_drains() -> None:
    found = options()
    assert found["Restart"] == "always"
    drain = ServeSettings.model_fields["drain_seconds"].default
    assert int(found["TimeoutStopSec"].removesuffix("s")) >= drain + MARGIN
    assert found["KillMode"] == "mixed"
    assert found["RestartPreventExitStatus"] == "2"  # server.cli: wrong usage or configuration


def test_a_stop_while_models_load_is_no_failure() -> None:
    """systemd takes death by SIGTERM for success, but not the exit status that stands for it."""
    assert options()["SuccessExitStatus"] == str(128 + signal.SIGTERM)  # server.lifecycle._leave_on_signals


def test_caches_lie_where_it_may_write() -> None:
    """vLLM keeps them under XDG_CACHE_HOME or HOME, Triton and FlashInfer under HOME."""
    found = options()
    assert (found["DynamicUser"], found["ProtectSystem"]) == ("yes", "strict")
    state = f"/var/lib/{found['StateDirectory']}"
    assert {name: variables()[name] for name in ("HOME", "HF_HOME")} == {"HOME": state, "HF_HOME": state}
    assert found["WorkingDirectory"] == state
