"""What is seen of a server while it has load: memory over time, its own counts, its log."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from deploy.loadtest.memory import resident

EVERY = 1.0  # seconds between two looks at the memory
BOOKED = 5.0  # seconds within which a server has counted what it answered last


@dataclass(frozen=True)
class Look:
    """Resident bytes by process, some seconds after the run's start."""

    at: float
    memory: dict[str, int]


@asynccontextmanager
async def watching(pid: int | None, start: float) -> AsyncIterator[list[Look]]:
    """Looks at the memory of a process and its engines while the context is open; none without a pid.

    They end with the process.
    """
    looks: list[Look] = []

    async def look() -> None:
        while pid is not None:
            looks.append(Look(time.perf_counter() - start, resident(pid)))
            await asyncio.sleep(EVERY)

    task = asyncio.ensure_future(look())
    try:
        yield looks
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, psutil.NoSuchProcess):
            await task


async def counts(session: aiohttp.ClientSession) -> Counter[tuple[str, str]]:
    """The server's count of POST requests by route and status, as `/metrics` has it."""
    async with session.get("/metrics") as response:
        response.raise_for_status()
        families = text_string_to_metric_families(await response.text())
    found: Counter[tuple[str, str]] = Counter()
    for family in families:
        for sample in family.samples:
            if sample.name == "decant_requests_total" and sample.labels["method"] == "POST":
                found[sample.labels["route"], sample.labels["status"]] += int(sample.value)
    return found


async def moved(
    session: aiohttp.ClientSession, before: Counter[tuple[str, str]], sent: int
) -> Counter[tuple[str, str]]:
    """What the counts have grown by, once they hold `sent` requests more, or have had the time to."""
    until = time.monotonic() + BOOKED
    while True:
        now = await counts(session)
        now.subtract(before)
        if now.total() >= sent or time.monotonic() > until:
            return +now
        await asyncio.sleep(0.1)


def logged(log: Path, run: str) -> Counter[tuple[str, int]]:
    """Lines of a server's JSON log about requests of this run, by id and status."""
    found: Counter[tuple[str, int]] = Counter()
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if f"{run}-" in line and line.startswith("{"):
            entry = json.loads(line)
            if "status" in entry:
                found[entry["request_id"], entry["status"]] += 1
    return found
