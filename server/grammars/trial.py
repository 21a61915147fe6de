"""Trying grammars out in another process before an engine gets them."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections import OrderedDict
from hashlib import sha256
from itertools import count
from typing import Any

from vllm.exceptions import QueueOverflowError

logger = logging.getLogger("decant.server")

AT_ONCE = 2  # grammars compiled at the same time
IN_LINE = 128  # grammars that wait or are being compiled
REMEMBERED = 4096  # grammars whose outcome is known


class _Compiling:
    """The process that compiles, and what is asked of it.

    Each has its own questions, so that the end of one is not taken for that of another.
    """

    def __init__(self, process: asyncio.subprocess.Process, header: dict[str, Any]) -> None:
        self.process = process
        self.waiting: dict[int, asyncio.Future[str]] = {}  # by the job's id
        self._ids = count()
        self._write(header)
        self._reader = asyncio.create_task(self._read())

    async def outcome(self, job: dict[str, Any]) -> str:
        id = next(self._ids)
        self.waiting[id] = future = asyncio.get_running_loop().create_future()
        try:
            self._write({"id": id, **job})
            return await future
        finally:
            del self.waiting[id]

    def _write(self, line: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line).encode() + b"\n")

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            answer = json.loads(line)
            if (future := self.waiting.get(answer["id"])) is not None and not future.done():
                future.set_result(answer["outcome"])
        await self.process.wait()
        if self.waiting:
            logger.error("the process that tries grammars out ended with %s", self.process.returncode)
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(RuntimeError("the process that tries grammars out has died"))

    async def close(self) -> None:
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # with what it has forked
        await self._reader


class Trials:
    """What grammars cost, found out in a process that can be ended.

    xgrammar compiles in native threads of the engine, which nothing can end: a few kilobytes keep one busy
    for hours, and no other grammar is compiled meanwhile. So each grammar is compiled here first, once, and
    an engine gets only those that were done in time.

    Args:
        tokenizer: xgrammar's TokenizerInfo as JSON.
        seconds: time on a CPU that a grammar may take.
        mib: memory it may take.
    """

    def __init__(self, tokenizer: str, seconds: float, mib: int) -> None:
        self._header = {"tokenizer": tokenizer, "seconds": seconds, "mib": mib}
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._trials: dict[bytes, asyncio.Task[str]] = {}
        self._compiling: _Compiling | None = None
        self._closed = False
        self._starting = asyncio.Lock()
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def outcome(self, kind: str, spec: str, any_whitespace: bool) -> str:
        """What came of compiling a grammar: "ok"; "none": it is none; "failed": xgrammar cannot compile it;
        "exceeded": it takes more than the bounds.

        A trial goes on when those who wait for it leave: they would else start another by coming again.
        Errors: QueueOverflowError if too many wait, or after `close`; RuntimeError if the process that tries
        them died.
        """
        key = sha256(f"{kind} {any_whitespace} {spec}".encode()).digest()
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            return known
        if (trial := self._trials.get(key)) is None:
            if len(self._trials) >= IN_LINE:
                raise QueueOverflowError()
            job = {"kind": kind, "spec": spec, "any_whitespace": any_whitespace}
            trial = self._trials[key] = asyncio.create_task(self._try(key, job))
        return await asyncio.shield(trial)

    async def _try(self, key: bytes, job: dict[str, Any]) -> str:
        try:
            async with self._slots:
                self._known[key] = outcome = await self._compiled(job)
        finally:
            del self._trials[key]
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return outcome

    async def _compiled(self, job: dict[str, Any]) -> str:
        async with self._starting:
            if self._closed:
                raise QueueOverflowError()
            if self._compiling is None or self._compiling.process.returncode is not None:
                self._compiling = _Compiling(await self._start(), self._header)
            compiling = self._compiling
        return await compiling.outcome(job)

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.grammars.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    async def close(self) -> None:
        """End the process and all trials; another is refused like a request to a server that has closed."""
        self._closed = True
        async with self._starting:  # a process that is being started has to be ended too
            if self._compiling is not None:
                await self._compiling.close()
        await asyncio.gather(*self._trials.values(), return_exceptions=True)
