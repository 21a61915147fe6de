"""The bench's state file: there again, and not another bench's."""

from pathlib import Path
from typing import Any

import pytest

from server.bench.methods import Setting
from server.bench.state import Answer, BenchState
from server.calibration.errors import CalibrationError
from server.calibration.state import State

TOLD: dict[str, Any] = {"seed": 0, "concurrency": 4}
ANSWER = Answer(
    question=3, setting="a", turn=1, round=2, session=1, text="ü", finish="stop", prompt=9, generated=2,
    engines={"base": 2}, kept=5, began=0.5, ended=1.5,
)  # fmt: skip


def filled(path: Path) -> str:
    with BenchState(path, TOLD, "d") as state:
        state.set_settings([Setting(name="plain"), Setting(name="a", request={"top_p": 0.5})], {"model": "m"})
        state.begin_session()
        state.refuse("b", "no")
        state.add(ANSWER)
        return state.salt


def test_everything_is_there_again(tmp_path: Path) -> None:
    salt = filled(tmp_path / "s")
    with BenchState(tmp_path / "s", TOLD, "d") as state:
        assert (state.salt, state.sessions, state.refused) == (salt, 1, {"b": "no"})
        assert state.settings == [Setting(name="plain"), Setting(name="a", request={"top_p": 0.5})]
        assert state.server == {"model": "m"}
        assert state.answers == {("a", 1, 3): ANSWER}


def test_a_cut_line_is_dropped(tmp_path: Path) -> None:
    filled(tmp_path / "s")
    with (tmp_path / "s").open("ab") as file:
        file.write(b'{"answer": {"ques')
    with BenchState(tmp_path / "s", TOLD, "d") as state:
        assert list(state.answers) == [("a", 1, 3)]


@pytest.mark.parametrize(
    ("told", "data", "says"),
    [
        ({**TOLD, "seed": 1}, "d", "is of another bench: seed was 0 and is 1"),
        (TOLD, "e", "the prompts are others"),
    ],
)
def test_another_benchs_state_is_refused(tmp_path: Path, told: dict[str, Any], data: str, says: str) -> None:
    filled(tmp_path / "s")
    with pytest.raises(CalibrationError, match=says):
        BenchState(tmp_path / "s", told, data)


def test_a_calibrations_state_is_none_and_one_in_use_is_said(tmp_path: Path) -> None:
    State(tmp_path / "c", "ead", {}, "d").__exit__(None, None, None)
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(CalibrationError, match="is no state of decant bench"):
        BenchState(tmp_path / "c", TOLD, "d")
    assert (tmp_path / "c").read_bytes() == before
    with (
        BenchState(tmp_path / "s", TOLD, "d"),
        pytest.raises(CalibrationError, match="in use by another bench"),
    ):
        BenchState(tmp_path / "s", TOLD, "d")
