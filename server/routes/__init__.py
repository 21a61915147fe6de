"""The HTTP routes, by subject. `State` is what they share."""

from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from decoders.request import Decoding
from server.admission import Slots
from server.config import ServeSettings
from server.engine import DecodingEngine
from server.failures import Failures
from server.metrics import EngineMetrics
from server.openai import Handlers


@dataclass
class State:
    """One server's parts."""

    settings: ServeSettings
    engine: DecodingEngine
    handlers: Handlers
    slots: Slots
    engine_metrics: EngineMetrics
    presets: dict[str, Decoding]
    created: int
    vocabulary: frozenset[str] = field(default_factory=frozenset)

    def failures(self, request: Request) -> Failures:
        """What turns an error of this request into a response."""
        return Failures(self.engine, request, self.vocabulary)

    def serves(self, model: str) -> bool:
        return model == self.settings.model_name() or model in self.presets


async def state_of(request: Request) -> State:  # async: FastAPI sends any other to a thread
    return cast(State, request.app.state.decant)


Shared = Annotated[State, Depends(state_of)]
