"""GET /health, /ready, /metrics, /version and /."""

from typing import Any

import vllm
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from server import __version__, compression, speculation
from server.errors import engine_dead
from server.metrics import METRICS, exposition
from server.routes import Shared, State
from server.schemas import ERRORS
from server.watching import Watch

router = APIRouter(tags=["Operation"], responses={503: ERRORS[503]})


def _require_engines(state: State) -> None:
    if dead := state.engine.dead_engines():
        raise engine_dead(dead[0])


def watches(state: State) -> tuple[Watch, ...]:
    """What asks the engines for metrics that only they know."""
    given = state.engine.engines, state.engine.deployment
    return speculation.watch(*given), compression.watch(*given)


@router.get("/health")
async def health(state: Shared) -> dict[str, Any]:
    """Whether every engine lives; 503 if one has died."""
    _require_engines(state)
    return {"status": "ok", "engines": dict.fromkeys(state.engine.engines, "up")}


@router.get("/ready")
async def ready(state: Shared) -> dict[str, Any]:
    """Whether new requests are taken; 503 while the server drains or an engine is dead."""
    _require_engines(state)
    if state.slots.closed is not None:
        raise state.slots.closed
    return {"status": "ready", "model": state.settings.model_name()}


@router.get("/metrics", response_class=Response)
async def metrics(state: Shared) -> Response:
    """Prometheus metrics: Decant's own and each engine's, told apart by the label `decant_engine`."""
    for name, engine in state.engine.engines.items():
        METRICS.engine_up.labels(name).set(not engine.errored)
    for watch in watches(state):
        await watch.refresh()
    return Response(exposition(state.engine_metrics), media_type=CONTENT_TYPE_LATEST)


@router.get("/version")
async def version() -> dict[str, str]:
    return {"version": __version__, "vllm": vllm.__version__}


@router.get("/")
async def index(state: Shared) -> dict[str, Any]:
    """What this server is and where to go on."""
    return {
        "name": "decant",
        "version": __version__,
        "model": state.settings.model_name(),
        "openapi": "/openapi.json",
        "models": "/v1/models",
        "methods": "/v1/decoding/methods",
    }
