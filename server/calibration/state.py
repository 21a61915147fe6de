"""The state file: every answer as it came, so that a calibration goes on where it ended.

Lines of JSON. The first says what is measured; then, in the order of events: a session's beginning, the
engines, the thresholds, and the answers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from server.calibration.journal import Journal


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


class State(Journal):
    """A calibration's journal."""

    command = "decant calibrate"
    noun = "calibration"

    def __init__(self, path: Path, method: str, settings: Mapping[str, Any], data: str) -> None:
        """Open `path`, or begin it. Raises CalibrationError if it is of another calibration, or in use."""
        self.answers: dict[tuple[str, int], Answer] = {}
        self.engines: dict[str, Any] | None = None
        self.thresholds: list[float] | None = None
        self.sessions = 0
        super().__init__(path, {"method": method, "settings": dict(settings), "data": data})

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

    def _take(self, entry: Mapping[str, Any]) -> None:
        if "answer" in entry:
            answer = Answer.model_validate(entry["answer"])
            self.answers[answer.setting, answer.prompt] = answer
        elif "session" in entry:
            self.sessions = int(entry["session"])
        elif "engines" in entry:
            self.engines = dict(entry["engines"])
        else:
            self.thresholds = [float(value) for value in entry["thresholds"]]
