"""What a server runs, as far as a decoding method needs to know it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class EngineFacts:
    """One engine: its model, context length in tokens, and the plug-ins it was started with."""

    model: str
    max_model_len: int
    guides: tuple[str, ...] = ()
    cache_methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployment:
    """The engines by name; requests that name none run on `default`."""

    default: str
    engines: Mapping[str, EngineFacts]
