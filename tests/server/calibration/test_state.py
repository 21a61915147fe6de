"""The state file: what was answered is there again, whatever ended its writer."""

from pathlib import Path
from typing import Any

import pytest

from server.calibration.errors import CalibrationError
from server.calibration.state import Answer, State

SETTINGS: dict[str, Any] = {"window": 5, "thresholds": 9}


def answer(prompt: int, setting: str = "small", **more: Any) -> Answer:
    known: dict[str, Any] = {"text": "ü\n", "tokens": [1, 2], "engines": {"small": 2}, "finish": "stop"}
    times = {"began": 0.5, "ended": 1.5}
    return Answer(
        **{**known, **times, "prompt": prompt, "setting": setting, "round": 0, "session": 1, **more}
    )


def opened(path: Path, settings: dict[str, Any] = SETTINGS, data: str = "d", method: str = "ead") -> State:
    return State(path, method, settings, data)


def filled(path: Path) -> str:
    with opened(path) as state:
        state.begin_session()
        state.set_engines({"small": "s"})
        state.add(answer(0))
        state.set_thresholds([0.25, 1.5])
        state.add(answer(1, "ead 0.25", entropies=[0.5, 1.0], switches=3))
        return state.salt


def test_everything_is_there_again(tmp_path: Path) -> None:
    salt = filled(tmp_path / "s")
    with opened(tmp_path / "s") as state:
        assert state.salt == salt
        assert state.begin_session() == 2
        assert state.engines == {"small": "s"}
        assert state.thresholds == [0.25, 1.5]
        assert state.answers == {
            ("small", 0): answer(0),
            ("ead 0.25", 1): answer(1, "ead 0.25", entropies=[0.5, 1.0], switches=3),
        }


def test_an_answer_that_was_being_written_is_dropped_and_can_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    filled(path)
    whole = path.read_bytes()
    for cut in range(1, 60, 7):
        path.write_bytes(whole[:-cut])
        with opened(path) as state:
            assert list(state.answers) == [("small", 0)]
            state.add(answer(1))
        with opened(path) as state:
            assert list(state.answers) == [("small", 0), ("small", 1)]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"settings": {"window": 6, "thresholds": 9}}, "window was 5 and is 6"),
        ({"settings": {**SETTINGS, "dwell": 1}}, "dwell was None and is 1"),
        ({"data": "e"}, "the prompts are others"),
        ({"method": "conformal"}, "it is of ead"),
    ],
)
def test_another_calibration_is_refused_and_the_file_kept(
    tmp_path: Path, other: dict[str, Any], says: str
) -> None:
    filled(tmp_path / "s")
    before = (tmp_path / "s").read_bytes()
    with pytest.raises(CalibrationError, match=says):
        opened(tmp_path / "s", **other)
    assert (tmp_path / "s").read_bytes() == before


def test_a_state_without_answers_takes_other_settings(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as state:
        state.begin_session()
    with opened(tmp_path / "s", {"window": 6}) as state:
        state.add(answer(0))
    with opened(tmp_path / "s", {"window": 6}) as state:
        assert list(state.answers) == [("small", 0)]


@pytest.mark.parametrize("content", ["{}\n", "hello", "[]\n", '{"prompt": "p"}\n{"prompt": "q"}\n'])
def test_a_file_of_another_kind_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / "s").write_text(content, encoding="utf-8")
    with pytest.raises(CalibrationError, match="no state of decant calibrate"):
        opened(tmp_path / "s")
    assert (tmp_path / "s").read_text(encoding="utf-8") == content


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    filled(tmp_path / "s")
    lines = (tmp_path / "s").read_text(encoding="utf-8").splitlines()
    for bad in ('{"answer": {"prompt": "x"}}', "nonsense", '{"else": 1}'):
        (tmp_path / "s").write_text("\n".join([*lines[:3], bad, *lines[3:], ""]), encoding="utf-8")
        with pytest.raises(CalibrationError, match="line 4 is damaged"):
            opened(tmp_path / "s")


def test_two_calibrations_do_not_write_into_one_file(tmp_path: Path) -> None:
    with opened(tmp_path / "s"), pytest.raises(CalibrationError, match="in use"):
        opened(tmp_path / "s")
    with opened(tmp_path / "s"):
        pass
