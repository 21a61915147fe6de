"""Prompts: what is read, and what is refused with file, line and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.calibration.data import Prompt, digest, read_prompts
from server.calibration.errors import CalibrationError

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]


def write(path: Path, *lines: Any) -> Path:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return path


def test_prompts_and_chats_are_read_in_order_with_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "d", {"prompt": "a"}, "", {"messages": CHAT}, {"prompt": "c"})
    assert read_prompts(path) == [Prompt(1, "a"), Prompt(3, CHAT), Prompt(4, "c")]
    assert read_prompts(path, limit=2) == [Prompt(1, "a"), Prompt(3, CHAT)]


def test_an_answer_is_a_text_or_a_list_of_accepted_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "d", {"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": ["2", "two"]})
    assert [prompt.accepted for prompt in read_prompts(path)] == [("1",), ("2", "two")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: an object"),
        ({"prompt": "p", "answr": "x"}, "line 2: 'answr' is no field"),
        ({"answer": "x"}, "line 2: either prompt or messages"),
        ({"prompt": "p", "messages": CHAT}, "line 2: either prompt or messages"),
        ({"prompt": ""}, "line 2: prompt"),
        ({"prompt": 3}, "line 2: prompt"),
        ({"messages": []}, "line 2: messages"),
        ({"messages": [{"role": "user"}]}, "line 2: messages"),
        ({"prompt": "p", "answer": ""}, "line 2: answer"),
        ({"prompt": "p", "answer": []}, "line 2: answer"),
        ({"prompt": "p", "answer": 4}, "line 2: answer"),
        ({"prompt": "p"}, "line 2: no answer, but line 1 has one"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, says: str) -> None:
    path = write(tmp_path / "d", {"prompt": "p", "answer": "x"}, line)
    with pytest.raises(CalibrationError, match=says) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)
    assert read_prompts(path, limit=1)  # what is not used is not judged


def test_an_answer_after_a_line_without_one_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "d", {"prompt": "p"}, {"prompt": "p", "answer": "x"})
    with pytest.raises(CalibrationError, match="line 2: an answer, but line 1 has none"):
        read_prompts(path)


def test_a_file_without_prompts_or_of_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no prompts"):
        read_prompts(write(tmp_path / "d", "", ""))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_prompts(tmp_path / "binary")


def test_the_digest_is_of_what_is_asked_in_its_order() -> None:
    a, b = Prompt(1, "a", ("x",)), Prompt(2, CHAT)
    assert digest([a, b]) == digest([Prompt(7, "a", ("y",)), b])
    assert len({digest([a, b]), digest([b, a]), digest([a]), digest([a, Prompt(2, CHAT[1:])])}) == 4
