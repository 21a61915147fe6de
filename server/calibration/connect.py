"""Who is asked: a running server, or one of our own that ends with us."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from server.calibration.client import Client
from server.calibration.launch import running


@asynccontextmanager
async def connected(
    url: str | None, key: str | None, config: Path | None, concurrency: int
) -> AsyncIterator[Client]:
    """A client of the server at `url`; of one that is started with `config` where it is None.

    Raises CalibrationError if that one does not start.
    """
    async with AsyncExitStack() as stack:
        address = url
        if address is None:
            print("decant: starting a server", file=sys.stderr)
            own = await stack.enter_async_context(running(config))
            address, key = own.url, own.key
        yield await stack.enter_async_context(Client(address, key, concurrency, own=url is None))
