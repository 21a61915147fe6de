"""Asking until all is asked, or somebody stops it: what has been answered is kept, and said to be."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from server.calibration.errors import CalibrationError

INTERRUPTED: Final = 130
TERMINATED: Final = 128 + signal.SIGTERM


def asked(asking: Coroutine[Any, Any, None], state: Path, done: Callable[[], int]) -> int:
    """Run `asking`; 0, or the exit status of an interruption, of which it has then told.

    Raises CalibrationError as `asking` does, with how many answers (`done`) the state holds.
    """

    def kept() -> str:
        return f"{done()} answers are in {state}, and the same command goes on"

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        asyncio.run(asking)
    except (KeyboardInterrupt, SystemExit) as error:
        print(f"decant: stopped; {kept()}", file=sys.stderr)
        return TERMINATED if isinstance(error, SystemExit) else INTERRUPTED
    except CalibrationError as error:
        raise CalibrationError(f"{error} ({kept()})" if done() else str(error)) from error
    return 0
