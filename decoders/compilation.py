"""How engines with hooks of ours may be compiled."""

from collections.abc import Mapping
from typing import Any


def piecewise(arguments: Mapping[str, Any], who: str) -> dict[str, Any]:
    """Engine arguments that let only pieces be captured: a graph of the whole would replay one step's work.

    Args:
        arguments: the engine's arguments otherwise.
        who: what needs it, for the error's message.

    Raises:
        ValueError: a compilation_config that asks for graphs of the whole.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu() or arguments.get("enforce_eager"):
        return {}
    given = arguments.get("compilation_config") or {}
    if not isinstance(given, dict):
        raise ValueError(f"compilation_config must be a mapping in an engine with {who}")
    mode = str(given.get("cudagraph_mode", "PIECEWISE")).upper()
    if mode not in ("PIECEWISE", "NONE"):
        raise ValueError(
            f"compilation_config.cudagraph_mode must be PIECEWISE or NONE in an engine with {who}"
        )
    return {"compilation_config": {**given, "cudagraph_mode": mode}}
