"""Tasks of EleutherAI's lm-evaluation-harness: its prompts, filters and metrics, with our questions' rounds.

The harness's own API model would run one setting from end to end, so that settings could not be interleaved;
here it makes the requests and judges the answers, and the bench asks them.
"""

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from server.bench.tasks import Question, Task
from server.calibration.errors import CalibrationError


def from_harness(name: str, folder: Path | None, limit: int | None) -> Task:
    """The task `name`, the first `limit` of its documents.

    Args:
        folder: YAML files of tasks beside the harness's own.

    Raises:
        CalibrationError: the harness is not installed, has no such task, or the task is none of generated
            answers (scoring given answers by their log-likelihood leaves methods nothing to decode), or its
            metric gives a document no score from 0 to 1.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise CalibrationError(
            "task: lm_eval tasks need lm-evaluation-harness: pip install 'decant[harness]'"
        )
    from lm_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager(include_path=str(folder) if folder else None, verbosity="ERROR")
    if name not in manager.all_tasks:
        raise CalibrationError(
            "task: lm-evaluation-harness has no such task; its own are listed by `lm-eval ls tasks`, yours "
            "are found with --harness-path"
        )
    try:
        tasks = list(_flat(get_task_dict([name], manager)))
    except Exception as error:  # whatever its loaders raise: a missing network, a file, a bad YAML
        reason = " ".join(str(error).split())[:500]
        raise CalibrationError(f"task: lm-evaluation-harness cannot load it: {reason}") from error
    questions: list[Question] = []
    measures = []
    for task in tasks:
        measure, found = _questions(task, limit)
        questions += found
        measures.append(measure)
    if not questions:
        raise CalibrationError("task: it has no documents")
    return Task(f"lm_eval: {name}", ", ".join(dict.fromkeys(measures)), tuple(questions))


def _flat(tasks: Mapping[Any, Any]) -> Iterator[Any]:
    """The tasks of a group, whatever groups are in it."""
    for one in tasks.values():
        if isinstance(one, Mapping):
            yield from _flat(one)
        else:
            yield one


def _questions(task: Any, limit: int | None) -> tuple[str, list[Question]]:
    name = task.config.task
    if task.OUTPUT_TYPE != "generate_until":
        raise CalibrationError(
            f"task: {name} is of the kind {task.OUTPUT_TYPE}, which generates nothing; bench takes tasks of "
            "the kind generate_until (many others have a variant of it)"
        )
    if task.config.repeats > 1:
        raise CalibrationError(f"task: {name} asks every document {task.config.repeats} times; use --turns")
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    measure = next(iter(task.higher_is_better()))
    if not task.higher_is_better()[measure]:
        raise CalibrationError(f"task: of {name}'s metric {measure} less is better; bench needs a score")
    _say_what_is_left_aside(name, task.instances[0].args[1] if task.instances else {})
    questions = [_question(task, measure, instance) for instance in task.instances]
    for asked, instance in zip(questions[:1], task.instances, strict=False):
        target = task.doc_to_target(instance.doc)
        for probe in ("", *map(str, target if isinstance(target, list) else [target])):
            asked.grade(probe)  # what gives no score is refused here, before anything is asked
    return measure, questions


def _say_what_is_left_aside(name: str, options: Mapping[str, Any]) -> None:
    aside = [key for key, value in options.items() if key not in ("until", "max_gen_toks") and value]
    if aside:
        print(
            f"decant: {name}'s {', '.join(aside)} are left aside: settings say how is sampled",
            file=sys.stderr,
        )


def _question(task: Any, measure: str, instance: Any) -> Question:
    context, options = instance.args

    def grade(text: str) -> float:
        instance.resps, instance.filtered_resps = [text], {}
        for one in task._filters:
            one.apply([instance])
        filtered = next(iter(instance.filtered_resps.values()))
        score = task.process_results(instance.doc, [filtered])[measure]
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            raise CalibrationError(f"task: the metric {measure} gives a document no score from 0 to 1")
        return float(score)

    until = options.get("until") or []
    return Question(
        where=f"{task.config.task} {instance.doc_id + 1}",
        kind=task.config.task,
        ask=context,
        grade=grade,
        stop=tuple([until] if isinstance(until, str) else until),
        max_tokens=options.get("max_gen_toks"),
    )
