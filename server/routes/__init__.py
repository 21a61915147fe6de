"""The HTTP routes, by subject. `State` is what they share."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, cast

from fastapi import Depends, Request

from decoders.request import Decoding
from server import compression, speculation
from server.admission import Slots
from server.config import ServeSettings
from server.engine import DecodingEngine
from server.errors import invalid
from server.failures import Failures
from server.grammars.guard import Guard
from server.metrics import EngineMetrics
from server.openai import Handlers
from server.watching import Watch


@dataclass
class State:
    """One server's parts."""

    settings: ServeSettings
    engine: DecodingEngine
    handlers: Handlers
    slots: Slots
    guard: Guard
    engine_metrics: EngineMetrics
    presets: dict[str, Decoding]
    created: int
    vocabulary: frozenset[str] = field(default_factory=frozenset)

    @cached_property
    def watches(self) -> tuple[Watch, ...]:
        """What asks the engines for metrics that only they know."""
        given = self.engine.engines, self.engine.deployment
        return speculation.watch(*given), compression.watch(*given)

    def failures(self, request: Request) -> Failures:
        """What turns an error of this request into a response."""
        return Failures(self.engine, request, self.vocabulary)

    def require_template(self, body: Any) -> None:
        """Errors: ApiError 400 for a chat template of the client's own where the operator allows none."""
        if getattr(body, "chat_template", None) is not None and not self.settings.allow_chat_templates:
            raise invalid(
                "'chat_template' cannot be used here: the server's own chat template is used.",
                "chat_template",
                "unsupported_field",
            )

    def serves(self, model: str) -> bool:
        return model == self.settings.model_name() or model in self.presets


async def state_of(request: Request) -> State:  # async: FastAPI sends any other to a thread
    return cast(State, request.app.state.decant)


Shared = Annotated[State, Depends(state_of)]
