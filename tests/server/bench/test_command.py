"""The command's flags: what is wrong with them is said before anything begins."""

import importlib.util
from pathlib import Path

import pytest

from server.bench.command import main

GOOD = '{"prompt": "1 + 1?", "answer": "2"}\n'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text(GOOD, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("flags", "status", "says"),
    [
        (["--task", "poems"], 2, "task: Value error, must be embedded, lm_eval:NAME, or one of fact"),
        (["--task", "sum", "--data", "DATA"], 2, "give data or task, not both"),
        (["--task", "sum", "--matcher", "exact"], 2, "matcher and pattern are for data"),
        (["--data", "DATA", "--pattern", "x"], 2, "pattern needs matcher regex"),
        (["--data", "missing.jsonl"], 2, "data: Path does not point to a file"),
        (["--url", "localhost:1"], 2, "url: Value error, must begin with http"),
        (["--plot", "plot.pdf"], 2, "plot: Value error, must end in .svg or .png"),
        (["--setting", '{"name": "a", "decodng": {}}'], 2, "setting.0.decodng: Extra inputs"),
        (["--setting", '{"name": "a"}', "--settings", "DATA"], 2, "give settings (a file) or setting"),
        (["--price", "prompt=1"], 2, "price: output is needed"),
        (["--turns", "0"], 2, "turns: "),
        (["--harness-path", "."], 2, "harness_path is for a task"),
        (["--data", "DATA", "--matcher", "number", "--url", "http://127.0.0.1:9"], 1, "does not answer"),
        (["--data", "DATA", "--matcher", "choice"], 1, "line 1: choices: "),
        (["--api-key", "x"], 2, "api_key does nothing without url"),
    ],
)
def test_what_is_wrong_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], status: int, says: str
) -> None:
    flags = [str(data) if flag == "DATA" else flag for flag in flags]
    assert main([*flags, "--state", str(tmp_path / "state")]) == status
    assert says in capsys.readouterr().err


def test_a_plot_without_matplotlib_is_refused_first(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    state = tmp_path / "state"
    assert main(["--data", str(data), "--plot", str(tmp_path / "p.svg"), "--state", str(state)]) == 1
    assert "plot needs matplotlib: pip install 'decant[plot]'" in capsys.readouterr().err
    assert not state.exists()


def test_a_preset_of_another_hand_is_not_written_over(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("presets: {}\n", encoding="utf-8")
    assert main(["--data", str(data), "--write-preset", str(preset)]) == 1
    assert "exists and is not of decant bench" in capsys.readouterr().err
