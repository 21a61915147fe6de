"""GET /health, /ready, /metrics and /version."""

import asyncio
from typing import Any, get_args

import vllm
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from server import __version__
from server.failures import lost_error
from server.group import Condition
from server.metrics import METRICS, exposition
from server.routes import Shared, State
from server.schemas import ERRORS

EXPOSITION: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The metrics."}
}

router = APIRouter(tags=["Operation"], responses={503: ERRORS[503]})


def _require_engines(state: State) -> None:
    if dead := state.engine.dead_engines():
        raise lost_error(state.engine, dead[0])


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health(state: Shared) -> dict[str, Any]:
    """Whether the server is to go on: 503 if an engine has died or hangs for good.

    An engine that is being started again is shown as such; the others serve meanwhile.
    """
    _require_engines(state)
    conditions = {name: state.engine.condition(name) for name in state.engine.engines}
    status = "ok" if set(conditions.values()) == {"up"} else "degraded"
    return {"status": status, "engines": conditions}


@router.head("/ready", include_in_schema=False)
@router.get("/ready")
async def ready(state: Shared) -> dict[str, Any]:
    """Whether requests of every kind are taken; 503 while the server drains or an engine is not up."""
    _require_engines(state)
    if state.slots.closed is not None:
        raise state.slots.closed
    if (lost := state.engine.lost(state.engine.engines)) is not None:
        raise lost_error(state.engine, lost)
    return {"status": "ready", "model": state.settings.model_name()}


@router.get("/metrics", response_class=Response, responses=EXPOSITION)
async def metrics(state: Shared) -> Response:
    """Prometheus metrics: Decant's own and each engine's, told apart by the label `decant_engine`."""
    for name in state.engine.engines:
        condition = state.engine.condition(name)
        METRICS.engine_up.labels(name).set(condition == "up")
        for one in get_args(Condition):
            METRICS.engine_condition.labels(name, one).set(condition == one)
        unfinished = state.engine.engines[name].output_processor.get_num_unfinished_requests()
        METRICS.engine_requests.labels(name).set(unfinished)
    METRICS.tasks.set(len(asyncio.all_tasks()))
    await asyncio.gather(*(watch.refresh() for watch in state.watches))
    return Response(exposition(state.engine_metrics), media_type=CONTENT_TYPE_LATEST)


@router.get("/version")
async def version() -> dict[str, str]:
    return {"version": __version__, "vllm": vllm.__version__}
