"""POST /tokenize and /detokenize: vLLM's."""

from fastapi import APIRouter, Request, Response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.tokenize.protocol import DetokenizeResponse, TokenizeResponse

from server.body import JsonRoute
from server.errors import invalid
from server.requests import DetokenizeBody, TokenizeBody
from server.routes import Shared, State
from server.schemas import ERRORS

router = APIRouter(route_class=JsonRoute, tags=["Tokenizer"], responses=ERRORS)


@router.post("/tokenize", response_model=TokenizeResponse)
async def tokenize(body: TokenizeBody, request: Request, state: Shared) -> Response:
    """The token ids of a prompt or a conversation."""
    state.require_template(body)
    return _reply(await state.handlers.tokenization.create_tokenize(body, request), request, state)


@router.post("/detokenize", response_model=DetokenizeResponse)
async def detokenize(body: DetokenizeBody, request: Request, state: Shared) -> Response:
    """The text of token ids."""
    size = state.engine.model_config.get_vocab_size()
    if any(token >= size for token in body.tokens):
        raise invalid(f"Every token id must be below {size}, the vocabulary's size.", "tokens")
    return _reply(await state.handlers.tokenization.create_detokenize(body, request), request, state)


def _reply(
    result: TokenizeResponse | DetokenizeResponse | ErrorResponse, request: Request, state: State
) -> Response:
    if isinstance(result, ErrorResponse):
        raise state.failures(request).from_vllm(result)
    return Response(result.model_dump_json(), media_type="application/json")
