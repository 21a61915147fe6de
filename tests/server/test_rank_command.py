"""`decant rank`: its flags, what it prints, and the trajectories it draws."""

import json
from pathlib import Path
from typing import Any

import pytest

from server import rank_show
from server.rank_command import main
from tests.decoders.sequence.candidates.test_game import GOLDEN, golden_game

ANSWER: dict[str, Any] = {
    "ranking": "er_d",
    "iterations": 5000,
    "results": [
        {
            "rank": y + 1,
            "index": y,
            "text": text,
            "scores": dict.fromkeys(("g", "mi", "sc", "d", "er_g", "er_d"), 0.25),
            "logprobs": vars(evidence),
            "tokens": 1,
        }
        for y, (text, evidence) in enumerate(zip(["[b]a$", "_b", "c", "d" * 99], golden_game(), strict=True))
    ],
    "usage": {"computed_tokens": 99, "cached_tokens": 7},
}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either a question"),
        (["question"], "at least two candidates"),
        (["question", "one"], "at least two candidates"),
        (["q", "a", "b", "--data", "x"], "either a question"),
        (["--data", "x", "--plot", "y.svg"], "one question"),
        (["--data", "x", "--json"], "one question"),
        (["q", "a", "b", "--out", "x"], "without --data"),
        (["q", "a", "b", "--url", "http://x", "--config", "y"], "not both"),
        (["q", "a", "b", "--url", "host"], "begin with http"),
        (["q", "a", "b", "--api-key", "k"], "without --url"),
        (["q", "a", "b", "--plot", "x.gif"], "must end in"),
        (["q", "a", "b", "--plot", "no/such/x.svg"], "does not exist"),
        (["q", "a", "b", "--ranking", "best"], "er_d"),
        (["--data", "x", "--concurrency", "0"], "at least 1"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no JSON", "line 2: not JSON"),
        ('{"prompt": "x"}', "and candidates, is needed"),
        ('{"candidates": ["a", "b"]}', "either prompt or messages"),
        ('{"prompt": "x", "candidates": ["a", "b"], "answer": "c"}', "one of the candidates"),
        ('{"prompt": "x", "candidates": ["a", "b"], "extra": 1}', "'extra' is no field"),
    ],
)
def test_lines_that_are_no_questions(
    line: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(f"\n{line}\n", encoding="utf-8")
    assert main(["--data", str(data)]) == 1
    assert words in capsys.readouterr().err


def test_a_file_that_is_not_there_or_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "none")]) == 1
    (tmp_path / "empty").touch()
    assert main(["--data", str(tmp_path / "empty")]) == 1
    said = capsys.readouterr().err
    assert "cannot be read" in said
    assert "holds no questions" in said


def test_a_server_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["q", "a", "b", "--url", "http://127.0.0.1:9"]) == 1
    assert "does not answer" in capsys.readouterr().err


def test_the_table_holds_every_candidate_and_rule(capsys: pytest.CaptureFixture[str]) -> None:
    rank_show.table(ANSWER)
    text = capsys.readouterr().out
    assert all(word in text for word in ("[b]a$", "er_g", "er_d", "0.2500", "99 tokens computed"))


def test_the_trajectory_ends_where_the_game_does() -> None:
    steps, values = rank_show.trajectory(ANSWER)
    assert steps[0] == 1
    assert steps[-1] == 5000
    assert steps == sorted(set(steps))
    for y, scores in enumerate(values):
        assert len(scores) == len(steps)
        for step in (1, 5000):
            assert scores[steps.index(step)]["er_g"] == pytest.approx(GOLDEN[step][0][y], abs=1e-6)
            assert scores[steps.index(step)]["er_d"] == pytest.approx(GOLDEN[step][1][y], abs=1e-6)


@pytest.mark.parametrize("name", ["plot.svg", "plot.png"])
def test_the_drawing(name: str, tmp_path: Path) -> None:
    rank_show.draw(ANSWER, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 5000
    if name.endswith("svg"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert text.count("<path") > 8


def test_accuracies_by_rule(capsys: pytest.CaptureFixture[str]) -> None:
    second = json.loads(json.dumps(ANSWER))
    second["results"][1]["scores"]["d"] = 0.9
    rank_show.accuracies([("[b]a$", ANSWER), ("_b", second)])
    text = capsys.readouterr().err
    rows = {line.split()[1]: line.split()[3] for line in text.splitlines() if line.startswith("│")}
    assert (rows["d"], rows["er_d"]) == ("1.000", "0.500")
