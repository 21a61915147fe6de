"""What is asked: questions that can be graded, embedded, of a JSONL file, or of lm-evaluation-harness."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from server.bench.matching import MATCHERS, NUMBER, Grade, matcher
from server.calibration.data import accepted, asked, objects
from server.calibration.errors import CalibrationError
from server.embedded.recipe.items import Item, items

FIELDS: Final = ("prompt", "messages", "answer", "choices", "matcher", "pattern")
EMBEDDED: Final = (
    "fact",
    "sum",
    "problem_1",
    "problem_2",
    "code",
)  # of the embedded world's kinds, by default
GRADED: Final = ("fact", "choice", "sum", "direct", "sum_choice", "problem_1", "problem_2", "code", "word")
NOTE_TOKENS: Final = (
    512  # of the texts in which `code` and `word` are looked for: long enough to be compressed
)
EACH: Final = 24  # embedded questions of a kind, by default
HARNESS: Final = "lm_eval:"


@dataclass(frozen=True)
class Question:
    """One question.

    where: which it is, for messages. ask: text, or a chat's messages. grade: an answer's score, 0 to 1.
    extract: what of an answer counts, for methods that compare answers. stop, max_tokens: the task's own, if
    it has them.
    """

    where: str
    kind: str
    ask: str | list[dict[str, Any]]
    grade: Grade
    extract: dict[str, Any] | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None


@dataclass(frozen=True)
class Task:
    """name: for the report. measure: what the scores are. questions: at least one."""

    name: str
    measure: str
    questions: tuple[Question, ...]

    def digest(self) -> str:
        """SHA-256 of what is asked; how it is graded may change without asking anew."""
        asked = [[one.ask, list(one.stop), one.max_tokens, one.extract] for one in self.questions]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def embedded(kinds: Sequence[str], each: int) -> Task:
    """Held-out test items of the embedded models' world, `each` of every kind.

    Raises CalibrationError for an unknown kind, or where the world has fewer.
    """
    for kind in kinds:
        if kind not in GRADED:
            raise CalibrationError(f"task: unknown kind {kind[:64]!r}; there are {', '.join(GRADED)}")
    questions: list[Question] = []
    for kind in kinds:
        try:
            drawn = items(kind, "test", each, NOTE_TOKENS)
        except ValueError as error:
            raise CalibrationError(f"limit: {error}") from None
        questions += [_embedded(f"{kind} {number}", item) for number, item in enumerate(drawn, 1)]
    return Task(f"embedded: {', '.join(kinds)}", "accuracy", tuple(questions))


def _embedded(where: str, item: Item) -> Question:
    extract = matcher("choice", [item.answer], item.choices).extract if item.choices else _NUMBER
    return Question(where, item.kind, item.prompt, lambda text: float(item.is_right(text)), extract)


_NUMBER: Final = {"type": "regex", "pattern": NUMBER}


def from_file(path: Path, limit: int | None, default: str | None, pattern: str | None) -> Task:
    """The lines of a JSONL file, the first `limit` of them.

    Args:
        default: the matcher of lines that name none; None: `choice` for lines with choices, else `exact`.
        pattern: of the matcher `regex`, for lines that have none.

    Raises:
        CalibrationError: names file, line and field of what cannot be used.
    """
    questions: list[Question] = []
    for where, _, raw in islice(objects(path, FIELDS), limit):
        questions.append(_line(where, raw, default, pattern))
    if not questions:
        raise CalibrationError(f"{path} holds no questions")
    return Task(path.name, "accuracy", tuple(questions))


def _line(where: str, raw: dict[str, Any], default: str | None, pattern: str | None) -> Question:
    ask = asked(where, raw)
    if "answer" not in raw:
        raise CalibrationError(f"{where}: answer is needed: a text, a number, or a list of accepted ones")
    answers = raw["answer"] if isinstance(raw["answer"], list) else [raw["answer"]]
    right = accepted(where, [_text(one) for one in answers])
    choices = raw.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(one, str) and one.strip() for one in choices):
        raise CalibrationError(f"{where}: choices must be a list of texts, none empty")
    name = raw.get("matcher", default or ("choice" if choices else "exact"))
    if name not in MATCHERS:
        raise CalibrationError(f"{where}: matcher must be one of {', '.join(MATCHERS)}")
    own = raw.get("pattern", pattern if name == "regex" else None)
    if own is not None and not isinstance(own, str):
        raise CalibrationError(f"{where}: pattern must be text")
    if choices and name != "choice":
        raise CalibrationError(f"{where}: choices mean nothing with the matcher {name}")
    try:
        made = matcher(name, right, choices, own)
    except ValueError as error:
        raise CalibrationError(f"{where}: {error}") from None
    return Question(where.rpartition(", ")[2], name, ask, made.grade, made.extract)


def _text(answer: Any) -> Any:
    """A number as text; what is neither is left for the check."""
    return str(answer) if isinstance(answer, int | float) and not isinstance(answer, bool) else answer
