"""Request bodies: vLLM's own, plus `decoding`, minus what would be ignored."""

from typing import Annotated, Any

from pydantic import ConfigDict, Discriminator, Field, PrivateAttr, Tag, model_validator
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionToolsParam
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.tokenize.protocol import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
)
from vllm.renderers.chat_utils import ChatCompletionMessageParam
from vllm.sampling_params import SamplingParams

from decoders.request import Decoding, DecodingRequest
from server.contract import normalised

CALL = "decant.call"  # where the admitted call travels in SamplingParams.extra_args, to be taken out again

Ids = list[Annotated[int, Field(ge=0)]]
Messages = Annotated[
    list[ChatCompletionMessageParam],
    Field(min_length=1, fail_fast=True, description="The conversation so far."),
]


class _Strict:
    """A body that OpenAI's contract has been checked of."""

    @model_validator(mode="before")
    @classmethod
    def _contract(cls, data: Any) -> Any:
        return normalised(data, cls.model_fields)  # type: ignore[attr-defined]


class _Generating(_Strict):
    """A body that asks for tokens. `_call` is set when the request has been admitted."""

    _call: Any = PrivateAttr(default=None)
    model_config = ConfigDict(extra="allow")

    def to_sampling_params(self, *args: Any, **kwargs: Any) -> SamplingParams:
        params = super().to_sampling_params(*args, **kwargs)  # type: ignore[misc]
        if self._call is not None:
            self._call.check_sampling(params)
            params.extra_args = {**(params.extra_args or {}), CALL: self._call}
        return params


class ChatRequest(_Generating, ChatCompletionRequest):
    """`POST /v1/chat/completions`."""

    messages: Messages
    tools: list[ChatCompletionToolsParam] | None = Field(default=None, fail_fast=True)
    decoding: DecodingRequest | None = Field(  # type: ignore[valid-type]
        default=None, description="Decoding methods, at most one a layer; see GET /v1/decoding/methods."
    )


class TextRequest(_Generating, CompletionRequest):
    """`POST /v1/completions`."""

    prompt: str | Ids | list[str] | list[Ids] = Field(
        description="A prompt or several, as text or as token ids."
    )
    decoding: DecodingRequest | None = Field(  # type: ignore[valid-type]
        default=None, description="Decoding methods, at most one a layer; see GET /v1/decoding/methods."
    )


GeneratingRequest = ChatRequest | TextRequest


def decoding_of(request: GeneratingRequest) -> Decoding:
    return request.decoding if request.decoding is not None else DecodingRequest()


class TokenizeText(_Strict, TokenizeCompletionRequest):
    """`POST /tokenize` for a prompt."""


class TokenizeChat(_Strict, TokenizeChatRequest):
    """`POST /tokenize` for a conversation."""

    messages: Messages


def _kind(data: Any) -> str:
    return "Chat" if isinstance(data, dict) and "messages" in data else "Text"


TokenizeBody = Annotated[
    Annotated[TokenizeText, Tag("Text")] | Annotated[TokenizeChat, Tag("Chat")], Discriminator(_kind)
]


class DetokenizeBody(_Strict, DetokenizeRequest):
    """`POST /detokenize`."""

    tokens: list[Annotated[int, Field(ge=0, le=2**63 - 1)]] = Field(fail_fast=True)
