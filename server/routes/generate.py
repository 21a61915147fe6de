"""POST /v1/chat/completions and /v1/completions."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request, Response
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.openai.completion.protocol import CompletionResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from server.acceptance import ACCEPTED
from server.admission import admit
from server.body import JsonRoute
from server.call import Call
from server.disconnect import Departure
from server.errors import invalid, model_not_found
from server.failures import Failures
from server.openai import ASKED_MODEL
from server.phrasing import phrasing_of
from server.requests import ChatRequest, GeneratingRequest, TextRequest
from server.routes import Shared, State, state_of
from server.schemas import ERRORS, EVENTS
from server.streaming import EventStream, Relay, error_of
from server.usage import amendment, with_spent


class GeneratingRoute(JsonRoute):
    """A route whose token ids and structural tags are held against their bounds before anything else."""

    async def inspect(self, request: Request, body: dict[str, Any]) -> None:
        state = await state_of(request)
        _require_room(body, state.engine.model_config.max_model_len)
        await state.guard.check_tags(body)


def _require_room(body: dict[str, Any], context: int) -> None:
    """Refuse token ids that cannot fit, before a second is spent on each million of them."""
    prompt = body.get("prompt")
    if not isinstance(prompt, list) or not prompt or isinstance(prompt[0], str):
        return
    prompts = prompt if isinstance(prompt[0], list) else [prompt]
    longest = max(len(one) for one in prompts if isinstance(one, list))
    most = TRUNCATED * context if body.get("truncate_prompt_tokens") else context
    if longest > most:
        raise invalid(f"prompt: At most {most} token ids are allowed.", "prompt")


router = APIRouter(route_class=GeneratingRoute)

# vLLM reads these, and passes over what it cannot read.
ENGINE_HEADERS = frozenset({"x-data-parallel-rank", "x-vllm-priority", "x-session-id"})

TRUNCATED = 16  # contexts that a prompt which is to be truncated may fill

Handler = Callable[[Any, Request], Awaitable[Any]]


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletionResponse,
    responses={**ERRORS, **EVENTS},
    tags=["OpenAI"],
)
async def create_chat_completion(body: ChatRequest, request: Request, state: Shared) -> Response:
    """OpenAI's chat completions, with an optional `decoding` object."""
    return await _answer(body, request, state, state.handlers.chat.create_chat_completion)


@router.post(
    "/v1/completions", response_model=CompletionResponse, responses={**ERRORS, **EVENTS}, tags=["OpenAI"]
)
async def create_completion(body: TextRequest, request: Request, state: Shared) -> Response:
    """OpenAI's completions, with an optional `decoding` object."""
    return await _answer(body, request, state, state.handlers.completion.create_completion)


async def _answer(body: GeneratingRequest, request: Request, state: State, handler: Handler) -> Response:
    if body.model and not state.serves(body.model):
        raise model_not_found()
    for header in ENGINE_HEADERS.intersection(request.headers):
        raise invalid(f"The header '{header}' is not taken here; send 'priority' in the body.")
    state.require_template(body)
    call = admit(body, state.presets, state.engine.deployment, state.settings.limits)
    request.state.call = call
    call.guard = state.guard
    call.phrasing = phrasing_of(body, request, state.handlers.renderer)
    ASKED_MODEL.set(body.model)
    failures = state.failures(request)
    departure = Departure(request.receive, request.scope["path"])
    response: Response | None = None
    try:
        work = _generate(body, request, state, handler, call, failures, departure)
        response = await departure.cancels(work)
        return response
    finally:
        if not isinstance(response, EventStream):  # which watches on
            departure.close()


async def _generate(
    body: GeneratingRequest,
    request: Request,
    state: State,
    handler: Handler,
    call: Call,
    failures: Failures,
    departure: Departure,
) -> Response:
    accepted = asyncio.Event()
    ACCEPTED.set(accepted)
    async with AsyncExitStack() as held:
        await held.enter_async_context(state.slots.hold())
        # vLLM converts it on the event loop when there are strict tools too, long before an engine sees it.
        if (constraint := body.extract_structured_outputs()) is not None:
            await state.guard.check(constraint)
        result = await handler(body, request)
        if isinstance(result, ErrorResponse):
            raise failures.from_vllm(result)
        if body.stream:
            single = body.n in (None, 1) and not _several(body)
            relay = Relay(result, amendment(call), single, lambda error: failures.from_body(error).body())
            try:
                await _require_begun(body, relay, accepted, failures)
            except BaseException:
                await relay.close()
                raise
            return EventStream(relay, held.pop_all(), departure)
        if call.decoding.report:
            result.decoding = call.report.layers
        if call.report.spent:
            result.usage = type(result.usage)(**with_spent(result.usage.model_dump(), call.report))
        return Response(result.model_dump_json(), media_type="application/json")


async def _require_begun(
    body: GeneratingRequest, relay: Relay, accepted: asyncio.Event, failures: Failures
) -> None:
    """Return once the stream can begin; raise the ApiError of a request that the engine refuses.

    An engine that has accepted the request refuses it no more, so the headers need not wait for its first
    token. Two cases do: several prompts, each of which is accepted on its own, and a grammar, of which only
    the first token shows that it admits any text.
    """
    begun: set[asyncio.Future[Any]] = {relay.first, relay.task}
    waiting = asyncio.ensure_future(accepted.wait())
    if not (
        _several(body) or body.structured_outputs or body.response_format or getattr(body, "tools", None)
    ):
        begun.add(waiting)
    await asyncio.wait(begun, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if relay.first.done():
        if (error := error_of(relay.first.result())) is not None:
            raise failures.from_body(error)
    elif relay.task.done():
        relay.task.result()


def _several(body: GeneratingRequest) -> bool:
    """Whether there is, or may be, more than one prompt."""
    return isinstance(body, TextRequest) and isinstance(body.prompt, list) and len(body.prompt) > 1
