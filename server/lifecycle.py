"""From settings to a running server and back: bind, load, serve, drain, exit."""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import uvicorn

from server.assembly import Assembly, assemble
from server.config import ConfigError, ServeSettings
from server.errors import unavailable
from server.failures import lost_error
from server.protocol import BoundedProtocol

logger = logging.getLogger("decant.server")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ABORT_GRACE = 5.0  # seconds that aborted requests get to deliver their last event


class Server(uvicorn.Server):
    """Uvicorn without its signal handlers; `Service` has its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: ServeSettings, sock: socket.socket) -> int:
    """Serve on `sock` until a signal or an engine's death; the process's exit status."""
    began = time.perf_counter()
    _leave_on_signals()
    try:
        made = await assemble(settings)
        try:
            return await Service(made, sock).run(time.perf_counter() - began)
        finally:
            await made.close()
    finally:
        sock.close()


def _leave_on_signals() -> None:
    """While engines load there is nothing to finish: end at once, and the engines' processes too."""
    loop = asyncio.get_running_loop()

    def leave(number: signal.Signals) -> None:
        logger.info("%s while loading: ending", number.name)
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        os._exit(128 + number)

    for number in SIGNALS:
        loop.add_signal_handler(number, leave, number)


class Service:
    """One server process while it serves."""

    def __init__(self, made: Assembly, sock: socket.socket) -> None:
        self.state = made.state
        self.supervisor = made.supervisor
        self.sock = sock
        self.status = 0
        settings = self.state.settings
        self.secure = (context := settings.tls.context()) is not None
        config = uvicorn.Config(
            made.app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=int(settings.drain_seconds + 2 * ABORT_GRACE) + 1,
            http=BoundedProtocol.within(settings.connections),
            ws="none",
            timeout_keep_alive=settings.connections.keep_alive_seconds,
            ssl_context_factory=(lambda *_: context) if context is not None else None,
        )
        self.server = Server(config)
        self.stopping = asyncio.Event()

    async def run(self, startup: float) -> int:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        tasks = [
            asyncio.create_task(self._drain_when_told()),
            asyncio.create_task(self._watch_engines()),
            *(asyncio.create_task(watch.run()) for watch in self.state.watches),
        ]
        try:
            self.sock.listen()
        except OSError as error:
            raise ConfigError(f"cannot listen: {error.strerror}; another server took the port") from error
        self._announce(startup)
        try:
            await self.server.serve(sockets=[self.sock])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self.status

    def _announce(self, startup: float) -> None:
        host, port = self.sock.getsockname()[:2]
        scheme = "https" if self.secure else "http"
        url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        models = ", ".join([self.state.settings.model_name(), *self.state.presets])
        logger.info("serving %s on %s after %.1f s", models, url, startup)
        logger.info("try: curl %s/v1/models", url)

    def _on_signal(self) -> None:
        if self.stopping.is_set():
            logger.warning("second signal: not waiting any longer")
            self.server.force_exit = True
        self.stopping.set()

    async def _drain_when_told(self) -> None:
        """Stop accepting; let running requests finish until the deadline; abort the rest."""
        await self.stopping.wait()
        slots, seconds = self.state.slots, self.state.settings.drain_seconds
        slots.closed = unavailable("The server is shutting down.", "draining")
        if slots.held:
            logger.info("shutting down: %d requests may run on for up to %g s", slots.held, seconds)
        else:
            logger.info("shutting down")
        self.server.should_exit = True
        if not await slots.idle(seconds):
            await self._end_what_runs()

    async def _end_what_runs(self) -> None:
        slots = self.state.slots
        logger.warning("aborted %d sequences", await self.state.engine.abort_all())
        if not await slots.idle(ABORT_GRACE):
            logger.error("%d requests did not end; closing their connections", slots.held)
            self.server.force_exit = True

    async def _watch_engines(self) -> None:
        """When an engine is lost: fail /health for a while, so that probes see it, then end the process."""
        try:
            lost = await self.supervisor.run()
            closed = lost_error(self.state.engine, lost[0])
        except Exception:  # nobody would notice a dead engine any more
            logger.exception("the watch over the engines failed; exiting")
            closed = unavailable("The server is going down.", "engine_dead")
        self.status = 1
        self.state.slots.closed = closed
        await asyncio.sleep(self.state.settings.death_grace_seconds)
        self.server.should_exit = True
        if self.state.slots.held:
            await self._end_what_runs()
