"""Questions from a file, and those of the embedded world."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.bench.tasks import EMBEDDED, embedded, from_file
from server.calibration.errors import CalibrationError
from server.embedded.recipe.items import items

GOOD = {"prompt": "1 + 1?", "answer": "2"}


def written(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines), "utf-8")
    return path


def test_lines_choose_their_matcher(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Which?"}]
    path = written(
        tmp_path,
        {"prompt": "1 + 1?", "answer": 2, "matcher": "number"},
        {"messages": chat, "answer": "red", "choices": ["red", "blue"]},
        {"prompt": "Say it.", "answer": ["yes", "aye"]},
        {"prompt": "How many?", "answer": "3", "matcher": "regex", "pattern": "(\\d) of"},
    )
    task = from_file(path, None, None, None)
    assert [one.kind for one in task.questions] == ["number", "choice", "exact", "regex"]
    assert [one.where for one in task.questions] == ["line 1", "line 2", "line 3", "line 4"]
    assert task.questions[1].ask == chat
    answers = ("so 2.0", "I take red", "Aye!", "3 of 4")
    assert [one.grade(text) for one, text in zip(task.questions, answers, strict=True)] == [1, 1, 1, 1]
    assert len(from_file(path, 2, None, None).questions) == 2


def test_the_default_matcher_is_the_flags(tmp_path: Path) -> None:
    task = from_file(written(tmp_path, GOOD), None, "regex", r"= (\d)")
    assert task.questions[0].grade("1 + 1 = 2 or 3") == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: an object"),
        ({**GOOD, "anser": 1}, "line 2: 'anser' is no field; there are prompt, messages, answer, choices"),
        ({"answer": "2"}, "line 2: either prompt or messages"),
        ({"prompt": "", "answer": "2"}, "line 2: prompt must be text"),
        ({"messages": [{}], "answer": "2"}, "line 2: messages must be a list"),
        ({"prompt": "x"}, "line 2: answer is needed"),
        ({"prompt": "x", "answer": []}, "line 2: answer must be text"),
        ({"prompt": "x", "answer": True}, "line 2: answer must be text"),
        ({**GOOD, "choices": "ab"}, "line 2: choices must be a list"),
        ({**GOOD, "choices": ["1", "3"]}, "line 2: answer must be one of choices"),
        ({**GOOD, "choices": ["2", "3"], "matcher": "exact"}, "line 2: choices mean nothing with"),
        ({**GOOD, "matcher": "close"}, "line 2: matcher must be one of"),
        ({**GOOD, "pattern": "2"}, "line 2: pattern is needed with the matcher regex"),
        ({**GOOD, "matcher": "regex", "pattern": 2}, "line 2: pattern must be text"),
        ({"prompt": "x", "answer": "two", "matcher": "number"}, "line 2: answer must be a number"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, says: str) -> None:
    with pytest.raises(CalibrationError, match=says):
        from_file(written(tmp_path, GOOD, line), None, None, None)


def test_a_file_without_questions_and_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="holds no questions"):
        from_file(written(tmp_path, ""), None, None, None)
    with pytest.raises(CalibrationError, match="cannot be read"):
        from_file(tmp_path / "none", None, None, None)


def test_embedded_questions_are_held_out_items_and_their_gold_answers_right() -> None:
    task = embedded(EMBEDDED, 3)
    assert [one.kind for one in task.questions] == [kind for kind in EMBEDDED for _ in range(3)]
    drawn = [item for kind in EMBEDDED for item in items(kind, "test", 3, 512)]
    for asked, item in zip(task.questions, drawn, strict=True):
        assert asked.ask == item.prompt
        assert (asked.grade(item.gold), asked.grade("never")) == (1, 0)


def test_unknown_kinds_and_too_many_items_are_said() -> None:
    with pytest.raises(CalibrationError, match="unknown kind 'poem'; there are fact, "):
        embedded(["poem"], 1)
    with pytest.raises(CalibrationError, match="limit: the world has only"):
        embedded(["fact"], 100_000)


def test_the_digest_is_of_what_is_asked(tmp_path: Path) -> None:
    one = from_file(written(tmp_path, GOOD), None, None, None)
    corrected = from_file(written(tmp_path, {**GOOD, "answer": "two"}), None, None, None)
    other = from_file(written(tmp_path, {**GOOD, "prompt": "1+1?"}), None, None, None)
    assert one.digest() == corrected.digest() != other.digest()


def test_the_example_of_twenty_questions_can_be_asked() -> None:
    task = from_file(Path(__file__).resolve().parents[3] / "examples/questions.jsonl", None, None, None)
    assert len(task.questions) == 20
    assert {one.kind for one in task.questions} == {"contains", "number", "choice"}
