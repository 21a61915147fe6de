"""Metrics of what happens in the engines' processes, which tell it when they are asked."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from prometheus_client import Counter

INTERVAL = 5.0  # seconds between looks at the engines
PATIENCE = 2.0  # seconds an engine may take to answer

_counted: dict[tuple[Any, tuple[str, ...]], float] = {}


class Watch:
    """Asks engines again and again what only they know.

    Args:
        engines: by name.
        question: the worker's method that answers.
        show: gets an engine's name and the answers of its workers.
    """

    def __init__(
        self, engines: Mapping[str, Any], question: str, show: Callable[[str, Sequence[Any]], None]
    ) -> None:
        self.engines, self.question, self.show = engines, question, show
        self.asking: asyncio.Future[Any] | None = None

    async def run(self) -> None:
        """Look again and again; returns at once where there is nobody to ask."""
        while self.engines:
            await self.refresh()
            await asyncio.sleep(INTERVAL)

    async def refresh(self) -> None:
        """Bring the metrics up to date; an engine that does not answer keeps its last values.

        Whoever comes while the engines are being asked shares the answers, so that many who look cost an
        engine no more than one.
        """
        if self.asking is None or self.asking.done():
            self.asking = asyncio.ensure_future(asyncio.gather(*map(self._ask, self.engines)))
        await asyncio.shield(self.asking)

    async def _ask(self, name: str) -> None:
        with suppress(Exception):  # a dead engine is reported elsewhere
            answers = await asyncio.wait_for(self.engines[name].collective_rpc(self.question), PATIENCE)
            self.show(name, answers)


def count_up(counter: Counter, labels: tuple[str, ...], total: float) -> None:
    """Bring a counter to what an engine has counted since its start, the latest if there were several."""
    before = _counted.get((counter, labels), 0.0)
    counter.labels(*labels).inc(total - before if total >= before else total)
    _counted[counter, labels] = total
