"""GET /v1/models, /v1/models/{id} and /v1/decoding/methods."""

from typing import Any

from fastapi import APIRouter

from decoders.request import catalogue
from server.errors import model_not_found
from server.routes import Shared, State
from server.schemas import ERRORS

router = APIRouter(tags=["Models"])


def _card(state: State, model: str) -> dict[str, Any]:
    base = state.settings.model_name()
    card: dict[str, Any] = {
        "id": model,
        "object": "model",
        "created": state.created,
        "owned_by": "decant",
        "parent": None if model == base else base,
        "max_model_len": state.engine.model_config.max_model_len,
    }
    if (preset := state.presets.get(model)) is not None:
        card["description"] = state.settings.preset_table()[model].description
        card["decoding"] = preset.model_dump(mode="json", exclude_none=True)
    return card


@router.get("/v1/models")
async def list_models(state: Shared) -> dict[str, Any]:
    """The served model and its presets, each under an id of its own."""
    ids = [state.settings.model_name(), *state.presets]
    return {"object": "list", "data": [_card(state, model) for model in ids]}


@router.get("/v1/models/{model:path}", responses=ERRORS)
async def get_model(model: str, state: Shared) -> dict[str, Any]:
    """One model or preset."""
    if not state.serves(model):
        raise model_not_found()
    return _card(state, model)


@router.get("/v1/decoding/methods")
async def list_methods(state: Shared) -> dict[str, Any]:
    """Per layer: the decoding methods, their JSON schemas, and whether this server offers each."""
    deployment = state.engine.deployment
    engines = {
        name: {
            "model": facts.model,
            "max_model_len": facts.max_model_len,
            "guides": list(facts.guides),
            "cache_methods": list(facts.cache_methods),
            "switches": facts.switches,
            "speculative": facts.speculative,
        }
        for name, facts in deployment.engines.items()
    }
    return {
        "object": "decoding.methods",
        "default_engine": deployment.default,
        "engines": engines,
        "layers": catalogue(deployment),
    }
