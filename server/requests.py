"""Request bodies: vLLM's own, plus `decoding`, minus what would be ignored."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, Tag, model_validator
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionToolsParam
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.tokenize.protocol import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
)
from vllm.renderers.chat_utils import ChatCompletionMessageParam
from vllm.sampling_params import SamplingParams

from decoders.deployment import NAMES_ENGINE
from decoders.exact import shapes
from decoders.request import Decoding, DecodingRequest
from decoders.sequence.candidates.game import Rule
from decoders.sequence.candidates.phrasing import Templates
from decoders.sequence.equilibrium import ITERATIONS, MOST_ITERATIONS
from server.contract import normalised

CALL = "decant.call"  # where the admitted call travels in SamplingParams.extra_args, to be taken out again

Rate = Annotated[float, Field(allow_inf_nan=False)]
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
        return normalised(data, shapes(cls))  # type: ignore[arg-type]


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


class RankRequest(_Strict, BaseModel):
    """`POST /v1/rank`."""

    model_config = ConfigDict(extra="allow")  # OpenAI's fields that change nothing; the contract knows them

    model: str | None = Field(default=None, description="The served model, or a preset with a logits method.")
    prompt: str | None = Field(default=None, description="The question as text; or give messages.")
    messages: Messages | None = Field(
        default=None, description="The conversation whose last message is the question."
    )
    candidates: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=2, fail_fast=True, description="The answers to rank."
    )
    method: Literal["equilibrium"] = Field(default="equilibrium", description="What ranks them.")
    ranking: Rule = Field(default="er_d", description="The rule that orders the results; all are returned.")
    iterations: int = Field(
        default=ITERATIONS,
        ge=1,
        le=MOST_ITERATIONS,
        description="Rounds of the game; fewer change the answer.",
    )
    eta: Rate = Field(default=0.1, gt=0, le=1000, description="Learning rate of both players.")
    lam: Rate = Field(default=0.1, ge=0, le=1000, description="Pull of both players to where they began.")
    by_token: bool = Field(
        default=False,
        description="Take the mean log-probability of an answer's tokens in place of their sum: for "
        "answers of "
        "different lengths.",
    )
    end: bool = Field(default=False, description="Score each answer's end too, as a token.")
    templates: Templates = Field(default=Templates(), description="The words around question and answer.")
    trajectory: bool = Field(
        default=False, description="Answer with both players' policies after some of the rounds too."
    )
    engine: str | None = Field(
        default=None, max_length=128, description="Engine to score on.", json_schema_extra=NAMES_ENGINE
    )
    decoding: DecodingRequest | None = Field(  # type: ignore[valid-type]
        default=None, description="A method of the logits layer: scores are then of the guided distribution."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, description="For the chat template.")
    add_special_tokens: bool = Field(default=True, description="Begin a prompt as the tokenizer does.")
    cache_salt: str | None = Field(
        default=None, min_length=1, max_length=1024, description="Shares cached blocks with its equals only."
    )
    priority: int = Field(default=0, ge=-(2**31), le=2**31 - 1, description="Lower runs earlier.")

    def asking(self) -> GeneratingRequest:
        """The request whose prompt the question is: rendered and tokenised in the same way."""
        shared = {"model": self.model, "cache_salt": self.cache_salt}
        if self.messages is not None:
            arguments = {"messages": self.messages, "chat_template_kwargs": self.chat_template_kwargs}
            return ChatRequest.model_validate({**shared, **arguments})
        return TextRequest.model_validate(
            {**shared, "prompt": self.prompt, "add_special_tokens": self.add_special_tokens}
        )


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

    tokens: list[Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]] = Field(fail_fast=True)
