"""The state file of a bench: every answer as it came, so that a run that was cut off goes on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from server.bench.methods import Setting
from server.calibration.journal import Journal


class Answer(BaseModel):
    """One answer.

    question: index into the questions. setting, turn, round, session: how and when it was asked; a turn is
    one pass over the questions. prompt, cached: tokens of the prompt, and how many were found in the prefix
    cache. generated: tokens decoded, of all candidates. scored: tokens computed for scores. recomputed:
    tokens computed again where an answer changed engines. engines: generated tokens by engine, if the server
    says. kept: slots of the prompt that its KV cache kept, None if all. began, ended: seconds on a clock
    that is comparable within a session.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: int
    setting: str
    turn: int
    round: int
    session: int
    text: str
    finish: str
    prompt: int
    generated: int
    cached: int = 0
    scored: int = 0
    recomputed: int = 0
    engines: dict[str, int] = {}
    kept: int | None = None
    began: float
    ended: float

    @property
    def computed(self) -> int:
        """Tokens that were run through a model."""
        return self.prompt - self.cached + self.generated + self.scored + self.recomputed


Key = tuple[str, int, int]  # setting, turn, question


class BenchState(Journal):
    """A bench's journal: the settings, which of them the server refuses, and the answers."""

    command = "decant bench"
    noun = "bench"

    def __init__(self, path: Path, told: Mapping[str, Any], data: str) -> None:
        """Open `path`, or begin it. Raises CalibrationError if it is of another bench, or in use.

        Args:
            told: what answers depend on, by name.
            data: the digest of the questions.
        """
        self.answers: dict[Key, Answer] = {}
        self.settings: list[Setting] | None = None
        self.server: dict[str, Any] = {}
        self.refused: dict[str, str] = {}
        self.sessions = 0
        super().__init__(path, {"settings": dict(told), "data": data})

    def begin_session(self) -> int:
        self.sessions += 1
        self._append({"session": self.sessions})
        return self.sessions

    def set_settings(self, settings: Sequence[Setting], server: Mapping[str, Any]) -> None:
        self.settings, self.server = list(settings), dict(server)
        listed = [one.model_dump(exclude_defaults=True) for one in settings]
        self._append({"compared": listed, "server": self.server})

    def refuse(self, setting: str, message: str) -> None:
        self.refused[setting] = message
        self._append({"refused": setting, "message": message})

    def add(self, answer: Answer) -> None:
        self.answers[answer.setting, answer.turn, answer.question] = answer
        self._append({"answer": answer.model_dump(exclude_defaults=True)})

    def _take(self, entry: Mapping[str, Any]) -> None:
        if "answer" in entry:
            answer = Answer.model_validate(entry["answer"])
            self.answers[answer.setting, answer.turn, answer.question] = answer
        elif "session" in entry:
            self.sessions = int(entry["session"])
        elif "refused" in entry:
            self.refused[str(entry["refused"])] = str(entry["message"])
        else:
            self.settings = [Setting.model_validate(one) for one in entry["compared"]]
            self.server = dict(entry["server"])
