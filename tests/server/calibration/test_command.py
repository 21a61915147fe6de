"""`decant calibrate`: flags and files that are refused before anything is asked."""

import json
from pathlib import Path

import pytest

from server.calibration.settings import EadSettings
from server.cli import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "p"}\n', encoding="utf-8")
    return path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_help_names_the_methods_and_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == run("--help") == 0
    assert "ead" in capsys.readouterr().out
    assert run("ead", "--help") == 0
    text = capsys.readouterr().out
    for name, field in EadSettings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert field.description
    assert run("conformall") == 2
    assert "there are: ead" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--data", "/nothing.jsonl"], "data"),
        (["--limit", "0"], "limit"),
        (["--match", "like"], "match"),
        (["--url", "localhost:8000"], "url"),
        (["--config", "/nothing.yaml"], "config"),
        (["--switch", "later"], "switch"),
        (["--window", "65"], "window"),
        (["--dwell", "0"], "dwell"),
        (["--thresholds", "0"], "thresholds"),
        (["--max-tokens", "0"], "max_tokens"),
        (["--concurrency", "0"], "concurrency"),
        (["--state", "/no/folder/state"], "state"),
        (["--share", "1.5"], "share"),
        (["--quality", "0"], "quality"),
        (["--plot", "curve.pdf"], "plot"),
        (["--share", "0.5", "--quality", "0.9"], "share or quality"),
        (["--write-preset", "p.yaml"], "write_preset"),
        (["--name", "mine"], "name"),
        (["--share", "0.5", "--write-preset", "p.yaml", "--name", "a b"], "name"),
        (["--api-key", "k"], "api_key"),
        (["--url", "http://127.0.0.1:1", "--config", "pyproject.toml"], "config"),
        (["--tresholds", "3"], "tresholds"),
    ],
)
def test_a_wrong_flag_is_named(
    data: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    given = flags if "--data" in flags else ["--data", str(data), *flags]
    assert run("ead", *given) == 2
    assert says in capsys.readouterr().err
    assert sorted(data.parent.iterdir()) == [data]


def test_settings_come_from_no_variable(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("window", "WINDOW", "DECANT_WINDOW"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("DECANT_API_KEY", "from the environment")
    settings = EadSettings(data=data, url="http://127.0.0.1:8000/v1/")
    assert settings.window == 5
    assert settings.url == "http://127.0.0.1:8000"
    assert settings.key() == "from the environment"
    assert EadSettings(data=data, url="http://h", api_key="given").key() == "given"


def test_nobody_listening_is_an_error_in_words(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ead", "--data", str(data), "--url", "http://127.0.0.1:9") == 1
    assert "the server at http://127.0.0.1:9 does not answer" in capsys.readouterr().err


def test_bad_data_and_a_preset_of_another_hand_end_it_at_once(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = data.with_name("config.yaml")
    theirs.write_text("port: 8000\n", encoding="utf-8")
    flags = ["--share", "0.5", "--write-preset", str(theirs)]
    assert run("ead", "--data", str(data), *flags) == 1
    assert "write_preset" in capsys.readouterr().err
    data.write_text(json.dumps({"prompt": "p", "answer": 3}), encoding="utf-8")
    assert run("ead", "--data", str(data)) == 1
    assert f"{data}, line 1: answer" in capsys.readouterr().err


def test_a_curve_without_matplotlib_is_refused_before_anything_is_asked(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run("ead", "--data", str(data), "--plot", str(data.with_name("curve.svg"))) == 1
    assert "decant[plot]" in capsys.readouterr().err
    assert sorted(data.parent.iterdir()) == [data]
