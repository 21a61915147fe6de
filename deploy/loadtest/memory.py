"""Resident memory of a server's processes."""

import psutil


def resident(root: int) -> dict[str, int]:
    """Resident bytes of the process `root` ("server") and of each engine core it started, in their order.

    Processes beside these (Python's resource tracker) count as the server's. Errors: psutil.NoSuchProcess if
    the server itself has ended.
    """
    server = psutil.Process(root)
    found = {"server": server.memory_info().rss}
    for child in server.children(recursive=True):
        try:
            name, used = " ".join([child.name(), *child.cmdline()]), child.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # it has ended meanwhile
        if "EngineCore" in name:
            found[f"engine {len(found)}"] = used
        else:
            found["server"] += used
    return found


def growth(before: dict[str, int], after: dict[str, int]) -> float:
    """The largest share by which one of the processes grew; 0 where nothing was seen before."""
    return max((after.get(name, 0) / used - 1 for name, used in before.items()), default=0.0)
