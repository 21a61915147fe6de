"""What a server runs, as far as a decoding method needs to know it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class EngineFacts:
    """One engine: its model, context length in tokens, and the plug-ins it was started with.

    `switches`: it can end a piece of an answer by entropy.
    `speculative`: the method that drafts, None if none does.
    """

    model: str
    max_model_len: int
    guides: tuple[str, ...] = ()
    cache_methods: tuple[str, ...] = ()
    switches: bool = False
    speculative: str | None = None


@dataclass(frozen=True)
class Deployment:
    """The engines by name; requests that name none run on `default`.

    `spare_token` is an id that no answer needs, None if the vocabulary has none.
    """

    default: str
    engines: Mapping[str, EngineFacts]
    spare_token: int | None = None
