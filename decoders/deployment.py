"""What a server runs, as far as a decoding method needs to know it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from decoders.errors import Refusal

# In a field's JSON schema: what its text names, so that a form can offer what the server has.
NAMES_ENGINE: Final[dict[str, Any]] = {"x-names": "engines"}
NAMES_GUIDE: Final[dict[str, Any]] = {"x-names": "guides"}


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

    def check_engine(self, name: str | None) -> None:
        """Raise Refusal if a request's field `engine` names none of the engines."""
        if name is not None and name not in self.engines:
            raise Refusal(
                f"This server has no engine of that name; it has: {', '.join(self.engines)}.",
                "decoding.sequence.engine",
            )
