"""The prompts of a calibration: a JSONL file of prompts, with accepted answers or without."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
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
    for where, number, raw in islice(objects(path, FIELDS), limit):
        prompt = Prompt(number, asked(where, raw), accepted(where, raw["answer"]) if "answer" in raw else ())
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


def objects(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The file's lines: where each stands, in words and as a number from 1, and its object.

    Raises CalibrationError for a line that is no object or has other fields than these.
    """
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{where}: not JSON: {error}") from None
        if not isinstance(raw, dict):
            raise CalibrationError(f"{where}: an object with prompt or messages is needed")
        for name in raw:
            if name not in fields:
                raise CalibrationError(f"{where}: {name[:64]!r} is no field; there are {', '.join(fields)}")
        yield where, number, raw


def asked(where: str, raw: Mapping[str, Any]) -> str | list[dict[str, Any]]:
    """A line's prompt or messages. Raises CalibrationError if it has not one of them, in order."""
    if ("prompt" in raw) == ("messages" in raw):
        raise CalibrationError(f"{where}: either prompt or messages is needed")
    if "prompt" in raw and not (isinstance(raw["prompt"], str) and raw["prompt"]):
        raise CalibrationError(f"{where}: prompt must be text, and not empty")
    if "messages" in raw and not _is_chat(raw["messages"]):
        raise CalibrationError(f"{where}: messages must be a list of objects, each with role and content")
    ask: str | list[dict[str, Any]] = raw["prompt"] if "prompt" in raw else raw["messages"]
    return ask


def _is_chat(messages: Any) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages)
        and all("content" in one for one in messages)
    )


def accepted(where: str, answer: Any) -> tuple[str, ...]:
    """A line's accepted answers. Raises CalibrationError if they are no texts."""
    answers = answer if isinstance(answer, list) else [answer]
    if not answers or not all(isinstance(one, str) and one.strip() for one in answers):
        raise CalibrationError(f"{where}: answer must be text, or a list of texts, and not empty")
    return tuple(answers)
