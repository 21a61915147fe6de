"""Figures, frontier and choice, of answers whose outcome is known."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from decoders.errors import Refusal
from server.bench import files, show
from server.bench.choice import choose
from server.bench.matching import matcher
from server.bench.methods import Setting
from server.bench.run import Run
from server.bench.settings import BenchSettings
from server.bench.state import Answer, BenchState
from server.bench.summary import Summary, missed, pareto, price, summarise
from server.bench.tasks import Question, Task

COUNT = 40
NAMES = ("plain", "quick", "good")


def question(index: int) -> Question:
    return Question(f"line {index}", "exact", f"q {index}", lambda text: float(text == "right"))


def answer(setting: str, index: int, number: int, **more: Any) -> Answer:
    fixed: dict[str, Any] = {"turn": 0, "session": 1, "finish": "stop", "prompt": 100, "generated": 10}
    fixed |= {"engines": {"base": 10}, "text": "right", "began": 0.0, "ended": 1.0}
    return Answer(**{**fixed, "setting": setting, "question": index, "round": number, **more})


def run_of(
    tmp_path: Path, made: Callable[[str, int, int], dict[str, Any]], count: int = COUNT, **flags: Any
) -> Run:
    """A complete run whose answers are `made` of setting, question and round."""
    options = BenchSettings(concurrency=2, **flags)
    task = Task("mine", "accuracy", tuple(map(question, range(count))))
    run = Run(options, task, BenchState(tmp_path / "state", options.measured(), task.digest()))
    engines = {"model": "m", "engines": {"base": "b", "small": "s"}}
    decoding = {"sequence": {"method": "plain", "engine": "small"}}
    listed = [Setting(name=name, decoding=decoding if name != "plain" else {}) for name in NAMES]
    run.state.set_settings(listed, engines)
    for number, indices in enumerate(run.rounds(0)):
        for name in NAMES:
            for index in indices:
                run.state.add(answer(name, index, number, **made(name, index, number)))
    assert run.is_complete()
    return run


def took(seconds: float) -> dict[str, float]:
    return {"began": 5.0, "ended": 5.0 + seconds}


def plainly(name: str, index: int, number: int) -> dict[str, Any]:
    """plain: 30 of 40 right; quick: the same ones in half the time; good: all, in three times the time."""
    right = name == "good" or index >= 10
    seconds = {"plain": 1.0, "quick": 0.5, "good": 3.0}[name] * (1 + number)
    return {"text": "right" if right else "wrong", **took(seconds)}


def test_answers_that_count_as_wrong_are_shown(tmp_path: Path) -> None:
    run = run_of(tmp_path, plainly)
    wrong = missed(run, summarise(run))
    assert wrong == [(f"line {index}", "wrong") for index in range(10)]
    text = show.misses(wrong, "the/state")
    assert text.count('"wrong"') == 5
    assert "the first 5 of 10" in text
    assert "the/state" in text
    assert show.misses([], "the/state").count("\n") == 1


@pytest.mark.parametrize(
    ("width", "every"), [(80, False), (100, False), (120, False), (145, True), (200, True)]
)
def test_every_row_keeps_its_name_in_a_narrow_terminal(tmp_path: Path, width: int, every: bool) -> None:
    summary = summarise(run_of(tmp_path, plainly))
    console = Console(width=width, record=True, file=StringIO())
    show.table(summary, console)
    lines = console.export_text().splitlines()
    for index, name in enumerate(NAMES):
        assert any(re.match(rf" *{show.mark(index)}\*? +{name} ", line) for line in lines), lines
    text = " ".join(lines)
    assert ("No room for: computed, by engine, latency, seconds" in text) != every
    assert all(len(line.rstrip()) <= width for line in lines)


def test_figures(tmp_path: Path) -> None:
    def made(name: str, index: int, number: int) -> dict[str, Any]:
        spent = {
            "engines": {"base": 4, "small": 8},
            "generated": 12,
            "recomputed": 6,
            "kept": 40,
            "scored": 2,
        }
        return {**plainly(name, index, number), **(spent if name == "quick" else {"cached": 20})}

    summary = summarise(run_of(tmp_path, made))
    plain, quick, good = summary.rows
    assert [row.quality.value for row in summary.rows] == [0.75, 0.75, 1.0]
    assert (quick.gain.value, good.gain.value) == (0, 0.25)
    assert (plain.generated, plain.computed) == (10, 90)
    assert (quick.generated, quick.computed) == (12, 120)
    assert quick.engines == {"base": pytest.approx(1 / 3), "small": pytest.approx(2 / 3)}
    assert (plain.kept, quick.kept) == (1.0, 0.4)
    assert [row.times.value for row in summary.rows if row.times] == pytest.approx([1, 0.5, 3])
    rounds = 10  # of 4 questions each
    assert plain.rounds == rounds
    assert plain.seconds == pytest.approx(sum(1 + i for i in range(rounds)) / COUNT)
    assert [row.on_frontier for row in summary.rows] == [False, True, True]


def test_rounds_that_an_interruption_divided_are_not_timed(tmp_path: Path) -> None:
    def made(name: str, index: int, number: int) -> dict[str, Any]:
        broken = number == 0 and index % 2 and name == "quick"
        return {**plainly(name, index, number), **({"session": 2} if broken else {})}

    run = run_of(tmp_path, made)
    assert len({index % 2 for index in run.rounds(0)[0]}) == 2  # else nothing is divided
    plain, quick, _ = summarise(run).rows
    assert (plain.rounds, quick.rounds) == (10, 9)


def test_rounds_whose_settings_an_interruption_divided_are_not_compared_by_time(tmp_path: Path) -> None:
    def made(name: str, index: int, number: int) -> dict[str, Any]:
        """After plain decoding's part of round 3: the others' came hours later, of a machine half as fast."""
        later = number > 3 or (number == 3 and name != "plain")
        fixed = plainly(name, index, number)
        return {**fixed, "session": 2, "ended": 2 * fixed["ended"] - 5.0} if later else fixed

    run = run_of(tmp_path, made)
    rows = summarise(run).rows
    assert [row.rounds for row in rows] == [10, 9, 9]
    assert [row.times.high for row in rows if row.times] == pytest.approx([1, 0.5, 3])
    priced = summarise(Run(run.options.model_copy(update={"price": {"output": 1.0}}), run.task, run.state))
    assert [row.rounds for row in priced.rows] == [10, 10, 10]  # tokens cost the same whenever


def test_prices_are_of_tokens(tmp_path: Path) -> None:
    prices = {"prompt": 1.0, "output": 10.0, "small": 2.0}
    one = answer("x", 0, 0, generated=12, engines={"base": 4, "small": 6}, recomputed=5, scored=7)
    assert price(one, prices) == pytest.approx((112 * 1 + 4 * 10 + 6 * 2 + 2 * 10) / 1e6)
    summary = summarise(run_of(tmp_path, plainly, price=prices))
    assert summary.unit == "price"
    assert [row.cost for row in summary.rows] == pytest.approx([(100 + 100) / 1e6] * 3)


def test_an_answer_that_a_pattern_cannot_search_in_time_costs_no_report(tmp_path: Path) -> None:
    made = matcher("regex", ["right"], pattern=r"^(?:(?:w|w)+)+$|right")
    slow = "w" * 60 + "!"
    with pytest.raises(Refusal):
        made.grade(slow)

    def answered(name: str, index: int, number: int) -> dict[str, Any]:
        return {**plainly(name, index, number), "text": slow if (name, index) == ("quick", 3) else "right"}

    run = run_of(tmp_path, answered)
    asked = tuple(replace(one, grade=made.grade) for one in run.task.questions)
    summary = summarise(Run(run.options, replace(run.task, questions=asked), run.state))
    assert [row.unsearched for row in summary.rows] == [0, 1, 0]
    assert summary.rows[1].scores == (*[1.0] * 3, 0.0, *[1.0] * (COUNT - 4))
    said = "Answers that their pattern takes more than 0.2 s to search, so that they count as wrong: quick 1."
    assert said in show.notes(summary)
    found = json.loads(files.as_json(summary, choose(summary, 0.05, "quality")))
    assert [one["unsearched"] for one in found["settings"]] == [0, 1, 0]


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    draw = Random(0)
    for _ in range(200):
        points = [(draw.randint(1, 5), draw.randint(1, 5)) for _ in range(8)]
        found = pareto([(float(cost), float(quality)) for cost, quality in points])
        for i, (cost, quality) in enumerate(points):
            beaten = any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points)
            assert (i in found) is not beaten
    assert pareto([(float("inf"), 1.0), (1.0, 0.5)]) == {1}


def test_better_is_taken_for_quality_and_cheaper_for_cost(tmp_path: Path) -> None:
    summary = summarise(run_of(tmp_path, plainly))
    best = choose(summary, 0.25, "quality")
    assert best.row.name == "good"
    assert "is better than plain decoding" in best.reasons[0]
    assert "quick is shown to be cheaper" in best.reasons[1]
    assert choose(summary, 0.25, "cost").row.name == "quick"
    assert choose(summary, 0.001, "cost").row.name == "good"  # nothing is shown to be as good as that


def test_what_is_cheaper_but_perhaps_much_worse_is_named(tmp_path: Path) -> None:
    def made(name: str, index: int, number: int) -> dict[str, Any]:
        right = index >= 20 if name == "quick" else index >= 2
        return {**plainly(name, index, number), "text": "right" if right else "wrong"}

    choice = choose(summarise(run_of(tmp_path, made)), 0.05, "cost")
    assert choice.row.name == "plain"
    (said,) = (one for one in choice.reasons if one.startswith("quick is cheaper"))
    assert "0.50 times" in said
    assert "accuracy differs by -0.6" in said


def test_what_cannot_be_told_from_the_choice_is_named(tmp_path: Path) -> None:
    def made(name: str, index: int, number: int) -> dict[str, Any]:
        """Both are right where plain is not; quick misses one question that good has."""
        right = index >= 15 if name == "plain" else name == "good" or index != 0
        return {**plainly(name, index, number), "text": "right" if right else "wrong"}

    choice = choose(summarise(run_of(tmp_path, made)), 0.05, "quality")
    assert choice.row.name == "good"
    assert choice.reasons[-1] == "These questions do not tell it from quick in accuracy."


def test_what_few_questions_or_rounds_do_not_show_is_not_claimed(tmp_path: Path) -> None:
    def made(name: str, index: int, number: int) -> dict[str, Any]:
        return plainly(name, index + 8, number)  # 6 of 8 right, all of 8 by the good one

    summary = summarise(run_of(tmp_path, made, count=8))
    assert [row.quality.value for row in summary.rows] == [0.75, 0.75, 1.0]
    choice = choose(summary, 0.05, "quality")
    assert choice.row.name == "plain"
    said = " ".join(choice.reasons)
    assert "nothing else is shown" in said
    assert "Costs were compared in 4 rounds and 7 are needed" in said
    assert "is better than" not in said


def few(summary: Summary) -> list[str]:
    return [row.name for row in summary.rows]


def test_files_hold_what_was_found(tmp_path: Path) -> None:
    run = run_of(tmp_path, plainly)
    run.state.refuse("good", "line 1: no such method")
    summary = summarise(run)
    choice = choose(summary, 0.3, "quality")
    found = json.loads(files.as_json(summary, choice))
    assert [one["name"] for one in found["settings"]] == few(summary) == ["plain", "quick"]
    assert found["questions"][1] == {"where": "line 1", "kind": "exact"}
    assert found["refused"] == {"good": "line 1: no such method"}
    assert found["chosen"]["name"] == choice.row.name == "quick"
    lines = files.as_csv(summary).splitlines()
    assert len(lines) == 4
    assert lines[-1].startswith("good,")
    assert lines[-1].endswith("line 1: no such method")
    markdown = files.as_markdown(summary, choice)
    assert "| b* | quick |" in markdown
    assert "**Take quick.**" in markdown
    assert "Refused: good: line 1: no such method" in markdown
    for suffix, begins in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        files.draw(summary, choice, tmp_path / f"plot.{suffix}")
        assert (tmp_path / f"plot.{suffix}").read_bytes().startswith(begins)


def test_what_is_printed_can_be_pasted(tmp_path: Path) -> None:
    summary = summarise(run_of(tmp_path, plainly))
    text = show.conclusion(summary, choose(summary, 0.25, "cost"), "mine", None)
    assert "On the frontier, from the cheapest: quick, good." in text
    body = json.loads(next(line for line in text.splitlines() if line.startswith("  {")))
    assert body == {"temperature": 0, "decoding": {"sequence": {"method": "plain", "engine": "small"}}}
    assert "  presets:\n    mine:\n" in text
    drawn = show.plot(summary)
    assert "0.50" in drawn.splitlines()[-1]
    assert "3.00" in drawn.splitlines()[-1]
