"""How much of a prompt a request may take from the prefix cache."""

from collections.abc import Mapping
from typing import Any, Final

KEY: Final = "decant.cached_tokens"  # under this name in `SamplingParams.extra_args`


def limit_arguments(tokens: int) -> dict[str, Any]:
    """For `SamplingParams.extra_args`: compute all prompt tokens but the first `tokens`.

    vLLM leaves the prompt log-probabilities of cached positions uninitialised, so that a request that wants
    those from some position on may find in the cache what lies before it, and no more.
    """
    return {KEY: tokens}


def limit_of(extra_args: Mapping[str, Any] | None) -> int | None:
    """Most prompt tokens the request may take from the cache; None: no limit."""
    found = (extra_args or {}).get(KEY)
    return None if found is None else int(found)
