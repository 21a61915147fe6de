"""Tasks of lm-evaluation-harness: what it asks, and how it judges, as our questions."""

import importlib.util
from pathlib import Path

import pytest

from server.bench.harness import from_harness
from server.calibration.errors import CalibrationError
from server.embedded.recipe.items import items
from tests.server.bench.harness_task import NAME, write

ITEMS = items("sum", "dev", 3)


def test_a_task_of_ones_own_needs_no_network(tmp_path: Path) -> None:
    task = from_harness(NAME, write(tmp_path, ITEMS), 2)
    assert (task.name, task.measure) == (f"lm_eval: {NAME}", "exact_match")
    assert [one.ask for one in task.questions] == [item.prompt for item in ITEMS[:2]]
    assert [one.where for one in task.questions] == [f"{NAME} 1", f"{NAME} 2"]
    for asked, item in zip(task.questions, ITEMS, strict=False):
        assert asked.grade(item.gold) == 1
        assert asked.grade(f"{item.gold} Or {int(item.answer) + 1}.") == 0
        assert (asked.stop, asked.max_tokens) == (("\n\n",), 96)


def test_the_tasks_own_sampling_is_said_to_be_left_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampling = {"until": ["\n"], "max_gen_toks": 9, "do_sample": True, "temperature": 0.7}
    task = from_harness(NAME, write(tmp_path, ITEMS, generation_kwargs=sampling), 1)
    assert task.questions[0].max_tokens == 9
    assert f"decant: {NAME}'s do_sample, temperature are left aside" in capsys.readouterr().err


def test_a_task_that_generates_nothing_is_refused(tmp_path: Path) -> None:
    choices = {"output_type": "multiple_choice", "doc_to_choice": ["1", "2"], "doc_to_target": 0}
    folder = write(tmp_path, ITEMS, **choices, filter_list=None, generation_kwargs=None, metric_list=None)
    with pytest.raises(CalibrationError, match="is of the kind multiple_choice, which generates nothing"):
        from_harness(NAME, folder, None)


def test_a_metric_that_scores_no_document_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    corpus = [{"metric": "bleu", "aggregation": "bleu", "higher_is_better": True}]
    with pytest.raises(CalibrationError, match="the metric bleu gives a document no score from 0 to 1"):
        from_harness(NAME, write(tmp_path, ITEMS, metric_list=corpus), None)


def test_a_metric_that_only_a_right_answer_takes_beyond_1_is_refused_then_too(tmp_path: Path) -> None:
    percent = "def judge(doc, results):\n    return {'acc': 100 * (results[0] == doc['answer'])}\n"
    (tmp_path / "percent.py").write_text(percent, encoding="utf-8")
    accuracy = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    folder = write(tmp_path, ITEMS, metric_list=accuracy)
    with (folder / "sums.yaml").open("a", encoding="utf-8") as task:
        task.write("process_results: !function percent.judge\n")
    with pytest.raises(CalibrationError, match="the metric acc gives a document no score from 0 to 1"):
        from_harness(NAME, folder, None)


def test_an_unknown_task_and_one_that_cannot_be_loaded_are_said(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="has no such task"):
        from_harness("no_such_task", None, None)
    lost = {"data_files": {"test": str(tmp_path / "nowhere.jsonl")}, "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(CalibrationError, match="cannot load it"):
        from_harness(NAME, write(tmp_path, ITEMS, dataset_kwargs=lost), None)


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CalibrationError, match=r"pip install 'decant\[harness\]'"):
        from_harness("gsm8k", None, None)
