"""Nothing waits by the wall clock, which may be set while the server runs."""

import ast
import asyncio
import itertools
import time
from pathlib import Path

import pytest

from server.admission import Slots
from server.backoff import Restarts
from server.engine import DecodingEngine
from tests.server.test_engine import PLAIN, Run, relay

ROOT = Path(__file__).resolve().parents[2]
STAMPS = {"server/app.py", "server/logs.py"}  # say when something happened, and decide nothing
COMMANDS = {"bench", "calibration"}  # of the operator's, beside the server


def wall_clocks(path: Path) -> list[int]:
    """Lines that read the wall clock."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if name in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"):
                found.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found += [node.lineno for alias in node.names if alias.name in ("time", "time_ns")]
    return found


def test_only_stamps_read_the_wall_clock() -> None:
    files = [path for path in (ROOT / "server").rglob("*.py") if path.parent.name not in COMMANDS]
    files += (ROOT / "decoders").rglob("*.py")
    read = {str(path.relative_to(ROOT)): lines for path in files if (lines := wall_clocks(path))}
    assert read.keys() <= STAMPS, read
    assert read, "the search finds nothing at all"


@pytest.fixture
def wild_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that leaps by days, forth and back, at every look."""
    real, leaps = time.time, itertools.cycle((86400.0 * 30, -86400.0 * 30, 0.0))
    monkeypatch.setattr(time, "time", lambda: real() + next(leaps))


@pytest.mark.usefixtures("wild_clock")
async def test_requests_and_waits_do_not_mind_a_leaping_clock(engine: DecodingEngine) -> None:
    assert abs(time.time() - time.time()) > 86400
    for decoding in (PLAIN, relay(turn=5, path=("small", "base"))):
        run = Run(engine, decoding)
        async with asyncio.timeout(60):
            outputs = [output async for output in run.stream(max_tokens=12)]
        assert outputs[-1].finished
        assert len(outputs[-1].outputs[0].token_ids) == 12
    slots = Slots(1, 1)
    async with asyncio.timeout(10), slots.hold():
        began = time.monotonic()
        assert not await slots.idle(0.2)
        assert 0.15 < time.monotonic() - began < 5
    restarts = Restarts(1, 3600, chance=lambda: 0.0)
    assert (restarts.next(), restarts.next()) == (0.5, None)
