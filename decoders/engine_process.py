"""How a process that Decant started for an engine behaves towards its parent."""

import multiprocessing
import os
import threading
import time

from decoders.output import make_lossy

WORKER = "decoders.worker.DecantWorker"  # one for all: vLLM adds it to its worker class, for good
SCHEDULER = "decoders.scheduler.scheduler"  # for every engine that names no other
CACHE_SCHEDULER = "decoders.cache.scheduler.scheduler"  # for those with cache methods; derived from it
MARK = "DECANT_ENGINE_PROCESSES"  # set in the server's environment, inherited by what it starts
WATCH = 1.0  # seconds between looks at the parent


def settle() -> None:
    """Leave the terminal's process group, and end with the parent. Does nothing outside a Decant server.

    Ctrl-C reaches every process of the terminal's group; an engine that heard it would die while the server
    still drains. And vLLM's engine processes outlive a parent that is killed, holding their memory.
    """
    starter = multiprocessing.parent_process()
    if os.environ.get(MARK) != "1" or starter is None:
        return
    make_lossy()
    if os.getpgid(0) != os.getpid():
        os.setpgid(0, 0)
    # Not getppid(): the parent may be gone already.
    threading.Thread(target=_end_with, args=(starter.pid,), name="parent-watch", daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)
