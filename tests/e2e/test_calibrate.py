"""`decant calibrate ead` against real servers: a sweep, killed and gone on with, and what comes of it."""

import json
import os
import re
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from server.embedded.recipe.items import items
from tests.e2e.client import KEY, Http, wait_for
from tests.e2e.process import COMMAND, Decant, environment, serving, survivors

ITEMS = [item for kind in ("fact", "sum", "problem_1") for item in items(kind, "dev", 4)]
THRESHOLDS = 3
ANSWERS = len(ITEMS) * (4 + THRESHOLDS)  # both models traced, both alone, and the thresholds
MARK = "MARK_OF_THIS_TEST"  # in the environment of what a test started
EAGER = ["--switch", "now", "--window", "1", "--dwell", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibrate") / "questions.jsonl"
    lines = [json.dumps({"prompt": item.prompt, "answer": item.answer}) for item in ITEMS]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def command(data: Path, *flags: str) -> list[str]:
    return [
        str(COMMAND),
        "calibrate",
        "ead",
        "--data",
        str(data),
        "--max-tokens",
        "96",
        "--match",
        "end",
        *flags,
    ]


def calibrate(data: Path, *flags: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    environ = environment() | ({"DECANT_API_KEY": key} if key else {})
    return subprocess.run(
        command(data, *flags), env=environ, capture_output=True, text=True, timeout=240, check=False
    )


def sweep(server: Decant, data: Path, state: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    flags = ("--thresholds", str(THRESHOLDS), "--concurrency", "4", "--state", str(state), *flags)
    return calibrate(data, "--url", server.url, *EAGER, *flags, key=KEY)


def answers(state: Path) -> list[dict[str, Any]]:
    """The answers in a state file, of whole lines alone."""
    content = state.read_text(encoding="utf-8") if state.exists() else ""
    entries = [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith("\n")]
    return [entry["answer"] for entry in entries if "answer" in entry]


@contextmanager
def started(log: Path, *flags: str, data: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A calibration in a process group of its own, killed at the end if it still runs."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(data, *flags),
            env=environment() | ({"DECANT_API_KEY": KEY} if "--url" in flags else {}),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# ---- with a server of its own ------------------------------------------------------------------------


def test_a_server_of_its_own_is_gone_afterwards_and_the_preset_is_served(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tmp_path / "preset.yaml"
    flags = ["--limit", "3", "--thresholds", "1", "--state", str(tmp_path / "state"), "--share", "0.9"]
    monkeypatch.setenv(MARK, str(tmp_path))
    done = calibrate(data, *EAGER, *flags, "--write-preset", str(preset), "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert "decant: starting a server" in done.stderr
    assert "%|" not in done.stderr  # no bar where nobody watches
    assert "Chosen: threshold" in done.stdout
    monkeypatch.delenv(MARK)
    assert not survivors([process for process in psutil.process_iter() if _mark(process) == str(tmp_path)])
    assert len(answers(tmp_path / "state")) == 3 * 5

    with serving(tmp_path / "log", "--config", str(preset)) as server:
        card = httpx.get(f"{server.url}/v1/models/demo:mine").json()
        threshold = re.search(r"Chosen: threshold (\S+) bits", done.stdout)
        assert threshold is not None
        assert card["decoding"]["sequence"]["threshold"] == float(threshold[1])
        question = {"model": "demo:mine", "messages": [{"role": "user", "content": ITEMS[0].prompt}]}
        body = {**question, "temperature": 0, "decoding": {"report": True}}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120).json()
        assert answer["decoding"]["sequence"]["method"] == "ead"
        recorded = [one for one in answers(tmp_path / "state") if one["setting"].startswith("ead")]
        texts = {one["prompt"]: one["text"] for one in recorded}
        assert answer["choices"][0]["message"]["content"] == texts[0]


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except psutil.Error:
        return None


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_server_of_its_own_ends_with_a_calibration_that_is_stopped(
    data: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    log, state = tmp_path / "log", tmp_path / "state"
    asking: Callable[[], bool] = lambda: len(answers(state)) > 5  # noqa: E731
    loading: Callable[[], bool] = lambda: len(children()) > 1  # noqa: E731
    with started(log, "--state", str(state), data=data) as process:

        def children() -> list[psutil.Process]:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            return psutil.Process(process.pid).children(recursive=True)

        wait_for(loading if number == signal.SIGTERM else asking, 200, "it has come so far")
        running = children()
        os.killpg(process.pid, number)
        assert process.wait(30) == status
        assert not survivors(running, within=30)
        if number != signal.SIGKILL:
            assert f"answers are in {state}" in log.read_text(encoding="utf-8")


def test_a_server_that_does_not_start_is_told_of(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("default_engine: nothing\n", encoding="utf-8")
    done = calibrate(data, "--config", str(config))
    assert done.returncode == 1
    assert "the server did not start" in done.stderr
    assert "default_engine must be one of" in done.stderr


# ---- with the server of all tests --------------------------------------------------------------------


def asked(http: Http) -> float:
    return http.metric("decant_requests_total", route="/v1/chat/completions", status="200")


def test_a_killed_sweep_goes_on_and_no_answer_is_asked_twice(
    server: Decant, http: Http, data: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    flags = ["--url", server.url, *EAGER, "--thresholds", str(THRESHOLDS), "--concurrency", "4"]
    with started(tmp_path / "log", *flags, "--state", str(state), data=data) as process:
        # In the midst of the rounds, with the thresholds chosen.
        wait_for(lambda: len(answers(state)) > 3 * len(ITEMS), 120, "half of the answers are there")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    kept = answers(state)
    assert 3 * len(ITEMS) < len(kept) < ANSWERS
    wait_for(lambda: http.in_flight() == 0, 30, "the abandoned requests have ended")

    before = asked(http)
    done = sweep(server, data, state, "--quality", "0.5")
    assert done.returncode == 0, done.stderr
    assert f"holds {len(kept)} answers" in done.stderr
    assert asked(http) - before == ANSWERS - len(kept)
    everything = answers(state)
    assert everything[: len(kept)] == kept
    assert len({(one["setting"], one["prompt"]) for one in everything}) == len(everything) == ANSWERS

    again = sweep(server, data, state, "--quality", "0.5")
    assert again.stdout == done.stdout
    assert asked(http) - before == ANSWERS - len(kept)


@pytest.fixture(scope="module")
def swept(server: Decant, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a whole sweep."""
    state = tmp_path_factory.mktemp("swept") / "state"
    done = sweep(server, data, state)
    assert done.returncode == 0, done.stderr
    return state


def test_the_table_is_of_what_was_answered(server: Decant, data: Path, swept: Path) -> None:
    lines = sweep(server, data, swept).stdout.splitlines()
    rows = {re.split(r" {2,}", line)[0]: re.split(r" {2,}", line)[1:] for line in lines[1 : 3 + THRESHOLDS]}
    assert len(rows) == 2 + THRESHOLDS
    assert next(iter(rows)) == "small"
    assert list(rows)[-1] == "large"
    shares = [float(cells[0].rstrip("%")) for cells in rows.values()]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 100)
    assert shares[1:-1] == pytest.approx([25, 50, 75], abs=20)
    for name, cells in rows.items():
        recorded = [one for one in answers(swept) if one["setting"] == name]
        right = sum(ITEMS[one["prompt"]].is_right(one["text"]) for one in recorded)
        assert cells[1].startswith(f"{right / len(ITEMS):.3f} "), name
        engines = {"small": {"small"}, "large": {"base"}}.get(name, {"small", "base"})
        assert set().union(*(one["engines"] for one in recorded)) == engines
        assert all(sum(one["engines"].values()) == len(one["tokens"]) for one in recorded)
    assert float(rows["large"][2]) == 1.0


def test_small_and_large_alone_are_the_engines_own_answers(http: Http, swept: Path) -> None:
    for name, engine in (("small", "small"), ("large", "base")):
        recorded = next(one for one in answers(swept) if one["setting"] == name and one["prompt"] == 0)
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": ITEMS[0].prompt}],
            "temperature": 0,
            "max_tokens": 96,
            "decoding": {"sequence": {"method": "plain", "engine": engine}},
        }
        assert http.post_ok("chat", body)["choices"][0]["message"]["content"] == recorded["text"]


def test_without_answers_quality_is_agreement_with_the_large_model(
    server: Decant, data: Path, swept: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"prompt": item.prompt}) + "\n" for item in ITEMS), encoding="utf-8")
    done = sweep(server, bare, swept)  # the same prompts, so the same answers do
    assert done.returncode == 0, done.stderr
    assert "agreement (95%)" in done.stdout
    large = {one["prompt"]: one["tokens"] for one in answers(swept) if one["setting"] == "large"}
    small = {one["prompt"]: one["tokens"] for one in answers(swept) if one["setting"] == "small"}
    same = sum(small[i] == large[i] for i in large)
    assert 0 < same < len(ITEMS)
    assert f"{same / len(ITEMS):.3f} (" in done.stdout.splitlines()[1]
    assert "1.000 (" in done.stdout.splitlines()[2 + THRESHOLDS]


def test_the_curve_is_drawn(server: Decant, data: Path, swept: Path, tmp_path: Path) -> None:
    for suffix, begins in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        file = tmp_path / f"curve.{suffix}"
        done = sweep(server, data, swept, "--share", "0.5", "--plot", str(file))
        assert done.returncode == 0, done.stderr
        assert file.read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--window", "2"], "window was 1 and is 2"),
        (["--limit", "5"], "the prompts are others"),
    ],
)
def test_a_state_of_another_calibration_is_refused(
    server: Decant, http: Http, data: Path, swept: Path, flags: list[str], says: str
) -> None:
    before = asked(http)
    done = sweep(server, data, swept, *flags)
    assert done.returncode == 1
    assert says in done.stderr
    assert asked(http) == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--small", "tiny"], "small must be one of the server's engines: base, small"),
        (["--large", "tiny"], "large must be one of"),
        (["--small", "base", "--large", "base"], "must be different engines"),
        (["--model", "gpt"], "HTTP 404"),
        (["--max-tokens", "5000"], "line 1: the server answers HTTP 400"),
    ],
)
def test_what_the_server_refuses_is_said(
    server: Decant, data: Path, tmp_path: Path, flags: list[str], says: str
) -> None:
    done = sweep(server, data, tmp_path / "state", "--limit", "1", *flags)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_is_shown_how_far_it_is(server: Decant, data: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    flags = ["--url", server.url, "--limit", "1", "--thresholds", "1", "--state", str(tmp_path / "state")]
    environ = environment() | {"DECANT_API_KEY": KEY}
    subprocess.run(
        command(data, *flags), env=environ, stdout=subprocess.DEVNULL, stderr=theirs, timeout=120, check=True
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "0/5" in shown
    assert "5/5" in shown
    assert "large" in shown


def test_a_wrong_key_is_said(server: Decant, data: Path, tmp_path: Path) -> None:
    done = calibrate(data, "--url", server.url, "--state", str(tmp_path / "state"), key="wrong")
    assert done.returncode == 1
    assert "wants another API key" in done.stderr
