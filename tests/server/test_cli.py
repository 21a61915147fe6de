import subprocess
import sys

import pytest

from server import __version__
from server.cli import main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "shows"), [([], "serve [MODEL]"), (["--help"], "doctor"), (["-V"], __version__)]
)
def test_help_and_version(arguments: list[str], shows: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert shows in capsys.readouterr().out


def test_an_unknown_command_is_named_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sevre"])
    assert caught.value.code == 2
    assert "serve, doctor" in capsys.readouterr().err


def test_serve_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    from server.config import LimitSettings, ServeSettings

    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for model in (ServeSettings, LimitSettings):
        for name, field in model.model_fields.items():
            assert name.replace("_", "-") in text or name == "model"
            assert field.description
            assert " ".join(field.description.split()[:4]) in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "x"], "port"),
        (["--limits.n", "0"], "limits.n"),
        (["--host", "0.0.0.0"], "API key"),
        (["--config", "/no/file.yaml"], "config"),
    ],
)
def test_a_wrong_setting_exits_2_with_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert len(error.splitlines()) == 1


def test_doctor_finds_this_machine_fit() -> None:
    from server import doctor

    assert doctor.report() == 0
