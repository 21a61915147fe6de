"""What a request asks of its engine's cache, as scheduler and worker read it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

KEY = "decant.cache"  # of `SamplingParams.extra_args`
REPORT = "decant.cache.report"  # likewise: the key under which the worker keeps what it measured


@dataclass(frozen=True)
class Settings:
    """The parameters of a cache method; those of `decoders/cache/compressed.py` and of the method's own file.

    decode: (trigger, keep) in tokens, None if nothing is compressed while decoding.
    sigma: None is adaptive. mass: whether attention takes a slot for as many tokens as it stands for.
    """

    method: str
    budget: float = 0.5
    recent: int = 64
    sinks: int = 4
    min_prompt: int = 128
    peak: float = 1.0
    decode: tuple[int, int] | None = None
    window: int = 0
    heavy: float = 0.0
    sigma: float | None = None
    pool: int = 1
    mass: bool = False

    def to_wire(self) -> dict[str, Any]:
        """Plain values for `SamplingParams.extra_args`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "decode": list(self.decode) if self.decode is not None else None}

    @classmethod
    def from_wire(cls, extra_args: Mapping[str, Any] | None) -> "Settings | None":
        """The settings among `extra_args`; None if no cache method acts on the request."""
        raw = (extra_args or {}).get(KEY)
        if raw is None:
            return None
        decode = raw.get("decode")
        return cls(**{**raw, "decode": tuple(decode) if decode is not None else None})


def acts(extra_args: Mapping[str, Any] | None) -> bool:
    """Whether a cache method acts on the request of these `SamplingParams.extra_args`."""
    return bool(extra_args) and KEY in (extra_args or {})
