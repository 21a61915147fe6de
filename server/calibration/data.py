"""The prompts of a calibration: a JSONL file of prompts, with accepted answers or without."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from server.calibration.errors import CalibrationError

FIELDS: Final = ("prompt", "messages", "answer")


@dataclass(frozen=True)
class Prompt:
    """line: where it stands in the file, from 1; ask: text, or a chat's messages; accepted: right answers."""

    line: int
    ask: str | list[dict[str, Any]]
    accepted: tuple[str, ...] = ()


def read_prompts(path: Path, limit: int | None = None) -> list[Prompt]:
    """The file's prompts, the first `limit` of them.

    Raises CalibrationError, which names file, line and field, for a line that is none, for a file without
    any, and where some lines have answers and some do not.
    """
    prompts: list[Prompt] = []
    for number, line in _lines(path):
        if len(prompts) == limit:
            break
        prompt = _prompt(f"{path}, line {number}", number, line)
        if prompts and bool(prompt.accepted) != bool(prompts[0].accepted):
            has, first = ("an answer", "none") if prompt.accepted else ("no answer", "one")
            raise CalibrationError(
                f"{path}, line {number}: {has}, but line {prompts[0].line} has {first}; all need one, or none"
            )
        prompts.append(prompt)
    if not prompts:
        raise CalibrationError(f"{path} holds no prompts")
    return prompts


def digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompts; the answers may be corrected without asking anew."""
    text = json.dumps([prompt.ask for prompt in prompts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def with_answers(prompts: Sequence[Prompt]) -> bool:
    return bool(prompts[0].accepted)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path} cannot be read: {error}") from None


def _prompt(where: str, number: int, line: str) -> Prompt:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{where}: not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CalibrationError(f"{where}: an object with prompt or messages is needed")
    for name in raw:
        if name not in FIELDS:
            raise CalibrationError(f"{where}: {name[:64]!r} is no field; there are {', '.join(FIELDS)}")
    if ("prompt" in raw) == ("messages" in raw):
        raise CalibrationError(f"{where}: either prompt or messages is needed")
    if "prompt" in raw and not (isinstance(raw["prompt"], str) and raw["prompt"]):
        raise CalibrationError(f"{where}: prompt must be text, and not empty")
    if "messages" in raw and not _is_chat(raw["messages"]):
        raise CalibrationError(f"{where}: messages must be a list of objects, each with role and content")
    ask = raw["prompt"] if "prompt" in raw else raw["messages"]
    return Prompt(number, ask, _accepted(where, raw["answer"]) if "answer" in raw else ())


def _is_chat(messages: Any) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages)
        and all("content" in one for one in messages)
    )


def _accepted(where: str, answer: Any) -> tuple[str, ...]:
    answers = answer if isinstance(answer, list) else [answer]
    if not answers or not all(isinstance(one, str) and one.strip() for one in answers):
        raise CalibrationError(f"{where}: answer must be text, or a list of texts, and not empty")
    return tuple(answers)
