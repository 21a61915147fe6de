"""A file of JSON lines that is written as things happen, so that what was cut off goes on where it ended."""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Self
from uuid import uuid4

from server.calibration.errors import CalibrationError


class Journal:
    """An open journal; nobody else may have it open. Use as a context manager.

    The first line says what is measured, and holds a salt; a subclass names its kind of journal (`command`,
    `noun`), the entry that makes one worth keeping (`kept`), and takes the later lines (`_take`).
    """

    command: ClassVar[str]
    noun: ClassVar[str]
    kept: ClassVar[str] = "answer"

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        """Open `path`, or begin it.

        Args:
            head: what is measured: `settings` by name, `data` (a digest), and perhaps `method`.

        Raises:
            CalibrationError: it is in use, damaged, or of something else, which is named.
        """
        self.path = path
        self.salt = uuid4().hex
        self._file = self._open()
        try:
            first = {"format": f"{self.command} 1", **head}
            lines = self._whole_lines()
            entries = [self._parsed(number, line) for number, line in enumerate(lines, 1)]
            if entries and entries[0].get("format") != first["format"]:
                raise self._alien()
            if any(self.kept in entry for entry in entries):
                self._check_head(entries[0], first)
                for number, entry in enumerate(entries[1:], 2):
                    self._read_entry(number, entry)
            else:  # it can be begun anew, with whatever settings
                self._file.truncate(0)
                self._append({**first, "salt": self.salt})
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _take(self, entry: Mapping[str, Any]) -> None:
        """Read one entry. Raises KeyError, TypeError or ValueError for one that is none."""
        raise NotImplementedError

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
            raise CalibrationError(f"state {self.path} is in use by another {self.noun}") from None
        return file

    def _whole_lines(self) -> list[bytes]:
        """The lines; one that was being written when its process was killed is taken off."""
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            if not whole and not content.startswith(f'{{"format": "{self.command}'.encode()):
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
        if found.get("method") != head.get("method"):
            differing.insert(0, f"it is of {found.get('method')}")
        if found.get("data") != head["data"]:
            differing.append("the prompts are others")
        if differing:
            raise CalibrationError(
                f"state {self.path} is of another {self.noun}: {'; '.join(differing)}. "
                "Give another --state, or delete it."
            )
        self.salt = str(found["salt"])

    def _read_entry(self, number: int, entry: Mapping[str, Any]) -> None:
        try:
            self._take(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(number) from error

    def _alien(self) -> CalibrationError:
        return CalibrationError(f"state {self.path} is no state of {self.command}; give another --state")

    def _damaged(self, number: int) -> CalibrationError:
        return CalibrationError(f"state {self.path}, line {number} is damaged; give another --state")
