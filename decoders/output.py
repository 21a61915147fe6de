"""Standard streams of a process that serves: a full disk under them must not end it."""

import io
import sys
from contextlib import suppress


class Lossy(io.TextIOWrapper):
    """A stream that drops what cannot be written.

    Python gathers what could not be written and fails anew at the next flush, which `multiprocessing` does
    before it starts a process.
    """

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def make_lossy() -> None:
    """Replace this process's standard output and error by streams to the same files that never fail."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:
            # What holds the stream that was goes on with it, each with a buffer of its own.
            raw = io.BufferedWriter(io.FileIO(stream.fileno(), "w", closefd=False))
            lossy = Lossy(raw, stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, lossy)
