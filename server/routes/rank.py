"""POST /v1/rank."""

from fastapi import APIRouter, Request, Response

from decoders.errors import Refusal
from server.body import JsonRoute
from server.disconnect import Departure
from server.errors import ApiError, model_not_found
from server.phrasing import phrasing_of
from server.quotas import spend
from server.ranking import RankResponse, admit_ranking, rank
from server.requests import RankRequest
from server.routes import Shared, State
from server.schemas import ERRORS

router = APIRouter(route_class=JsonRoute, responses=ERRORS, tags=["Decoding"])


@router.post("/v1/rank", response_model=RankResponse)
async def create_ranking(body: RankRequest, request: Request, state: Shared) -> Response:
    """Rank the caller's candidate answers by generator, discriminator and their equilibrium."""
    if body.model and not state.serves(body.model):
        raise model_not_found()
    departure = Departure(request.receive, request.scope["path"])
    try:
        return await departure.cancels(_rank(body, request, state))
    except Refusal as refusal:
        raise ApiError.of(refusal) from None
    finally:
        departure.close()


async def _rank(body: RankRequest, request: Request, state: State) -> Response:
    engine, model = state.engine, body.model or state.settings.model_name()
    call = admit_ranking(body, state.presets.get(model), engine, state.settings.limits)
    request.state.call = call
    phrasing = phrasing_of(body.asking(), request, state.handlers.renderer)
    assert phrasing is not None
    ranking: RankResponse | None = None
    try:
        async with state.slots.hold():
            ranking = await engine.aside(rank(body, call, phrasing, engine, model))
    finally:  # the prompt has been paid for; of what broke off, all that was scored
        scored = max(0, call.report.spent["scored"] - call.account.prompt)
        spend(ranking.usage.completion_tokens if ranking is not None else scored)
    if call.decoding.report:
        ranking.decoding = call.report.layers
    return Response(ranking.model_dump_json(exclude_none=True), media_type="application/json")
