"""The state file: every answer as it came, so that a calibration goes on where it ended.

Lines of JSON. The first says what is measured; then, in the order of events: a session's beginning, the
engines, the thresholds, and the answers.
"""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from server.calibration.errors import CalibrationError

FORMAT: Final = "decant calibrate 1"
BEGINNING: Final = b'{"format": "decant calibrate'


class Answer(BaseModel):
    """One answer.

    prompt: index into the prompts. setting, round, session: how and when it was asked. tokens: their ids.
    engines: tokens by engine. recomputed: tokens computed again at switches. began, ended: seconds on a clock
    that is comparable within a session. entropies: bits, one a token, if traced.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: int
    setting: str
    round: int
    session: int
    text: str
    tokens: list[int]
    engines: dict[str, int]
    switches: int = 0
    recomputed: int = 0
    finish: str
    began: float
    ended: float
    entropies: list[float] | None = None


class State:
    """An open state file; nobody else may have it open. Use as a context manager."""

    def __init__(self, path: Path, method: str, settings: Mapping[str, Any], data: str) -> None:
        """Open `path`, or begin it. Raises CalibrationError if it is of another calibration, or in use."""
        self.path = path
        self.answers: dict[tuple[str, int], Answer] = {}
        self.engines: dict[str, Any] | None = None
        self.thresholds: list[float] | None = None
        self.sessions = 0
        self.salt = uuid4().hex
        self._file = self._open()
        try:
            head = {"format": FORMAT, "method": method, "settings": dict(settings), "data": data}
            lines = self._whole_lines()
            entries = [self._parsed(number, line) for number, line in enumerate(lines, 1)]
            if entries and entries[0].get("format") != FORMAT:
                raise self._alien()
            if any("answer" in entry for entry in entries):
                self._check_head(entries[0], head)
                for number, entry in enumerate(entries[1:], 2):
                    self._take(number, entry)
            else:  # it can be begun anew, with whatever settings
                self._file.truncate(0)
                self._append({**head, "salt": self.salt})
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "State":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    # ---- writing ---------------------------------------------------------------------------------------

    def begin_session(self) -> int:
        self.sessions += 1
        self._append({"session": self.sessions})
        return self.sessions

    def set_engines(self, engines: Mapping[str, Any]) -> None:
        self.engines = dict(engines)
        self._append({"engines": self.engines})

    def set_thresholds(self, thresholds: list[float]) -> None:
        self.thresholds = thresholds
        self._append({"thresholds": thresholds})

    def add(self, answer: Answer) -> None:
        self.answers[answer.setting, answer.prompt] = answer
        self._append({"answer": answer.model_dump(exclude_defaults=True)})

    def _append(self, entry: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise CalibrationError(f"state {self.path} cannot be written: {error.strerror}") from error

    # ---- reading ---------------------------------------------------------------------------------------

    def _open(self) -> IO[bytes]:
        try:
            file = self.path.open("a+b")
        except OSError as error:
            raise CalibrationError(f"state {self.path} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise CalibrationError(f"state {self.path} is in use by another calibration") from None
        return file

    def _whole_lines(self) -> list[bytes]:
        """The lines; one that was being written when its process was killed is taken off."""
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            if not whole and not content.startswith(BEGINNING):
                raise self._alien()
            self._file.truncate(len(whole))
        return list(whole.splitlines())

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise self._alien() if number == 1 else self._damaged(number)
        return entry

    def _check_head(self, found: Mapping[str, Any], head: Mapping[str, Any]) -> None:
        theirs, ours = found.get("settings"), head["settings"]
        if not isinstance(theirs, dict) or "salt" not in found:
            raise self._damaged(1)
        changed = [name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name)]
        differing = [f"{name} was {theirs.get(name)} and is {ours.get(name)}" for name in changed]
        if found.get("method") != head["method"]:
            differing.insert(0, f"it is of {found.get('method')}")
        if found.get("data") != head["data"]:
            differing.append("the prompts are others")
        if differing:
            raise CalibrationError(
                f"state {self.path} is of another calibration: {'; '.join(differing)}. "
                "Give another --state, or delete it."
            )
        self.salt = str(found["salt"])

    def _take(self, number: int, entry: Mapping[str, Any]) -> None:
        try:
            if "answer" in entry:
                answer = Answer.model_validate(entry["answer"])
                self.answers[answer.setting, answer.prompt] = answer
            elif "session" in entry:
                self.sessions = int(entry["session"])
            elif "engines" in entry:
                self.engines = dict(entry["engines"])
            else:
                self.thresholds = [float(value) for value in entry["thresholds"]]
        except (ValidationError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(number) from error

    def _alien(self) -> CalibrationError:
        return CalibrationError(f"state {self.path} is no state of decant calibrate; give another --state")

    def _damaged(self, number: int) -> CalibrationError:
        return CalibrationError(f"state {self.path}, line {number} is damaged; give another --state")
