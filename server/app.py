"""The FastAPI application: routes, errors and what surrounds them."""

import time
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from jinja2 import TemplateError
from starlette.exceptions import HTTPException
from vllm.exceptions import VLLMError

from server import __version__
from server.admission import Slots
from server.auth import ALWAYS_OPEN, KeyRing, RequireKey
from server.config import LOOPBACK, ServeSettings
from server.document import completed
from server.engine import DecodingEngine
from server.errors import ApiError, code_of, from_validation
from server.grammars.guard import Guard
from server.hosts import KnownHosts
from server.metrics import EngineMetrics
from server.middleware import BodyLimit, RequestContext
from server.openai import Handlers
from server.playground import assets
from server.quotas import ANYONE, Account, Quotas
from server.routes import State, generate, models, operate, playground, rank, tokenize
from server.scrub import words
from server.tracing import TraceRequests, Tracing

# What pages of other origins may read of an answer's header.
EXPOSED = ["X-Request-Id", "Retry-After"] + [
    f"x-ratelimit-{what}-{kind}"
    for what in ("limit", "remaining", "reset")
    for kind in ("requests", "tokens")
]


def build_app(
    engine: DecodingEngine,
    settings: ServeSettings,
    engine_metrics: EngineMetrics,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The service over engines that are up."""
    limits = settings.limits
    app = FastAPI(
        title="Decant",
        version=__version__,
        description="An OpenAI-compatible decoding server.",
        docs_url=None,
        redirect_slashes=False,
        redoc_url=None,
    )
    state = State(
        settings=settings,
        engine=engine,
        handlers=Handlers(engine, settings),
        slots=Slots(limits.concurrent_requests, limits.queued_requests, limits.queue_seconds),
        guard=Guard(limits, engine.vllm_config, engine.renderer.tokenizer),
        engine_metrics=engine_metrics,
        presets={name: preset.decoding for name, preset in settings.preset_table().items()},
        created=int(time.time()),
    )
    app.state.decant = state
    for module in (generate, rank, models, tokenize, operate):
        app.include_router(module.router)
    if settings.playground:
        app.include_router(playground.router)
    document = app.openapi()
    state.vocabulary = words(document)
    completed(document, ALWAYS_OPEN | _open_paths(settings) if settings.known_keys() else None)
    _handle_errors(app, state)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, limit=limits.body_bytes)
    app.add_middleware(Quotas, accounts=_accounts(settings))
    if settings.host in LOOPBACK and not settings.known_keys():
        app.add_middleware(KnownHosts, names=settings.allowed_hosts)
    app.add_middleware(RequireKey, keys=KeyRing(settings.known_keys()), open_paths=_open_paths(settings))
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    if tracing is not None:
        app.add_middleware(TraceRequests, tracer=tracing.tracer)
    app.add_middleware(RequestContext)
    return app


def _open_paths(settings: ServeSettings) -> frozenset[str]:
    chosen = {"/metrics"} if settings.open_metrics else set()
    return frozenset(chosen | (assets().keys() if settings.playground else set()))


def _accounts(settings: ServeSettings) -> dict[str, Account]:
    """One account for each key, or one for all clients where there are no keys."""
    names = [key.name for key in settings.known_keys()] or [ANYONE]
    return {name: Account(name, settings.limits_by_key.get(name, settings.key_limits)) for name in names}


def _handle_errors(app: FastAPI, state: State) -> None:
    async def on_http(request: Request, error: Any) -> Response:
        if isinstance(error, ApiError):
            return error.response()
        status = error.status_code
        known = {
            404: "There is no such route; see /openapi.json.",
            405: "This route does not take that method.",
        }
        message = known.get(status, "The request could not be read.")
        return ApiError(status, message, code=code_of(status), headers=error.headers).response()

    async def on_validation(request: Request, error: Any) -> Response:
        return from_validation(error.errors()).response()

    async def on_failure(request: Request, error: Any) -> Response:
        return state.failures(request).from_exception(error).response()

    app.exception_handler(HTTPException)(on_http)
    app.exception_handler(RequestValidationError)(on_validation)
    # vLLM raises its own errors for bad requests, and Python's for some.
    for kind in (VLLMError, TemplateError, ValueError, TypeError, OverflowError, NotImplementedError):
        app.exception_handler(kind)(on_failure)
