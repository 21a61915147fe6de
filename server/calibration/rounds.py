"""Who is asked when: prompts in rounds, and a round's prompts to a fixed number of workers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random

from server.calibration.errors import CalibrationError


def rounds(count: int, size: int, seed: str) -> list[list[int]]:
    """The indices 0 to count - 1 in an order drawn by `seed`, in rounds of `size`, the last one the rest."""
    order = list(range(count))
    Random(seed).shuffle(order)
    return [order[i : i + size] for i in range(0, count, size)]


async def ask_all(prompts: Sequence[int], concurrency: int, one: Callable[[int], Awaitable[None]]) -> None:
    """`one` for each of the prompts, in order, `concurrency` of them at once.

    Raises the first CalibrationError; the others are then cancelled.
    """
    waiting = list(reversed(prompts))

    async def worker() -> None:
        while waiting:
            await one(waiting.pop())

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(waiting))):
                group.create_task(worker())
    except* CalibrationError as several:
        raise several.exceptions[0] from None
