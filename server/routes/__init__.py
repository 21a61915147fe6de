"""The HTTP routes, by subject. `State` is what they share."""

from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from decoders.request import Decoding
from server.admission import Slots
from server.config import ServeSettings
from server.engine import DecodingEngine
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
    vocabulary: frozenset[str] = field(default_factory=frozenset)
    created: int = 0


def state_of(request: Request) -> State:
    return cast(State, request.app.state.decant)


Shared = Annotated[State, Depends(state_of)]
