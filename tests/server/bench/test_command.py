"""The command's flags: what is wrong with them is said before anything begins."""

import importlib.util
import json
from pathlib import Path

import pytest

from server.bench.command import main
from server.bench.methods import Setting, with_plain
from server.bench.run import Run
from server.bench.settings import BenchSettings
from server.bench.state import Answer, BenchState
from server.calibration.flags import parsed

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


def complete(data: Path, state: Path, *flags: str) -> list[str]:
    """The flags of a bench whose answers are all there: plain decoding is right, small is, and for less."""
    told = ["--data", str(data), "--state", str(state), "--concurrency", "1", *flags]
    options = parsed(BenchSettings, told)
    assert isinstance(options, BenchSettings)
    task = options.questions()
    with BenchState(state, options.measured(), task.digest()) as journal:
        small = Setting(name="small", decoding={"sequence": {"method": "plain", "engine": "small"}})
        journal.set_settings(with_plain([small]), {"model": "m", "engines": {"base": "b", "small": "s"}})
        for name, engine in (("plain", "base"), ("small", "small")):
            for number, (index,) in enumerate(Run(options, task, journal).rounds(0)):
                journal.add(
                    Answer(
                        question=index,
                        setting=name,
                        turn=0,
                        round=number,
                        session=1,
                        text="2",
                        finish="stop",
                        prompt=4,
                        generated=1,
                        engines={engine: 1},
                        began=float(number),
                        ended=number + 0.5,
                    )
                )
    return told


@pytest.mark.parametrize(
    ("prices", "status", "says"),
    [
        ({"output": 1, "small": 0}, 0, "x plain"),  # what is on the frontier has no place on the axis
        ({"output": 0}, 1, "plain decoding costs nothing at these prices"),
    ],
)
def test_what_costs_nothing_keeps_no_report_from_being_written(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    prices: dict[str, float],
    status: int,
    says: str,
) -> None:
    data.write_text(GOOD * 12, encoding="utf-8")
    plot, table = tmp_path / "plot.svg", tmp_path / "table.md"
    flags = ["--price", json.dumps(prices), "--plot", str(plot), "--markdown", str(table)]
    flags += ["--margin", "0.9", "--write-preset", str(tmp_path / "preset.yaml")]
    assert main(complete(data, tmp_path / "state", *flags)) == status
    out, err = capsys.readouterr()
    assert "In a request:" in out
    assert says in out
    assert "| small |" in table.read_text(encoding="utf-8")
    assert plot.exists() is (status == 0)
    if status:
        assert err.splitlines()[-1].startswith("decant: plot: plain decoding costs nothing")
        assert "no round was left whole" not in out + err
    else:
        assert "Take: small" in out
        assert "engine: small" in (tmp_path / "preset.yaml").read_text(encoding="utf-8")


def test_a_preset_of_another_hand_is_not_written_over(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("presets: {}\n", encoding="utf-8")
    assert main(["--data", str(data), "--write-preset", str(preset)]) == 1
    assert "exists and is not of decant bench" in capsys.readouterr().err
