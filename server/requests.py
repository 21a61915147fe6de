"""Request bodies of the two generating routes: vLLM's own, plus `decoding`, minus what would be ignored."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PrivateAttr, model_validator
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionToolsParam
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.renderers.chat_utils import ChatCompletionMessageParam
from vllm.sampling_params import SamplingParams

from decoders.request import Decoding, DecodingRequest
from server.errors import invalid

CALL = "decant.call"  # where the admitted call travels in SamplingParams.extra_args, to be taken out again

# OpenAI's fields that change nothing about an answer of a local model: accepted, and documented as such.
INERT = frozenset({"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"})
# OpenAI's fields that would change it and that no engine here can honour, with what to do instead.
REFUSED = {
    "audio": "this server has no audio output",
    "function_call": "use 'tool_choice'",
    "functions": "use 'tools'",
    "moderation": "this server has no moderation",
    "prediction": "predicted outputs are not supported",
    "verbosity": "say so in the prompt",
    "web_search_options": "this server has no web search",
}
# vLLM's fields that act only with something Decant does not run or does not let a client choose.
CLOSED = {
    "chat_template": "the server's own chat template is used",
    "ec_transfer_params": "this server runs no disaggregated engines",
    "kv_transfer_params": "this server runs no disaggregated engines",
    "media_io_kwargs": "clients may not choose how media are loaded",
    "mm_processor_kwargs": "clients may not choose how media are processed",
    "prompt_embeds": "send text or token ids",
}
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
SCALARS = {
    "allowed_token_ids": int,
    "bad_words": str,
    "logprob_token_ids": int,
    "stop": str,
    "stop_token_ids": int,
}


class _DecodingMixin:
    """What both bodies add to vLLM's. `_call` is set when the request has been admitted."""

    _call: Any = PrivateAttr(default=None)
    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _openai_contract(cls, data: Any) -> Any:
        """null means left out, as in OpenAI's API; a field nobody would act on is an error."""
        if not isinstance(data, dict):
            return data
        data = {key: value for key, value in data.items() if value is not None}
        known = cls.model_fields  # type: ignore[attr-defined]
        for key, value in data.items():
            if key in CLOSED:
                raise invalid(f"'{key}' cannot be sent here: {CLOSED[key]}.", key, "unsupported_field")
            if key not in known and key not in INERT:
                _require_harmless(key, value)
        _require_shape(data)
        options = data.get("stream_options")
        if isinstance(options, dict):
            data["stream_options"] = {k: v for k, v in options.items() if v is not None}
            if not data["stream_options"] and not data.get("stream"):
                del data["stream_options"]
        return data

    def to_sampling_params(self, *args: Any, **kwargs: Any) -> SamplingParams:
        params = super().to_sampling_params(*args, **kwargs)  # type: ignore[misc]
        if self._call is not None:
            self._call.check_sampling(params)
            params.extra_args = {**(params.extra_args or {}), CALL: self._call}
        return params


def _require_harmless(key: str, value: Any) -> None:
    if key in REFUSED:
        raise invalid(f"'{key}' is not supported: {REFUSED[key]}.", key, "unsupported_field")
    if key == "modalities":
        if value != ["text"]:
            raise invalid("Only the modality ['text'] is supported.", key)
    elif key == "service_tier":
        if value not in ("auto", "default"):
            raise invalid("Only the service tiers 'auto' and 'default' are supported.", key)
    elif key == "store":
        if value is not False:
            raise invalid("Completions are not stored; only false is supported.", key)
    else:
        raise invalid(f"Unknown field: {key[:64]}.", key, "unknown_field")


def _ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _strings(value: list[Any]) -> bool:
    return all(type(item) is str for item in value)


def _require_shape(data: dict[str, Any]) -> None:
    """Stop at the first wrong item of a long list: pydantic would gather an error for each, in memory."""
    for key, kind in SCALARS.items():
        items = data.get(key)
        if isinstance(items, list) and not all(type(item) is kind for item in items):
            raise invalid(f"{key}: Every item must be {'an integer' if kind is int else 'a string'}.", key)
    bias = data.get("logit_bias")
    if isinstance(bias, dict) and not all(type(value) in (int, float) for value in bias.values()):
        raise invalid("logit_bias: Every value must be a number.", "logit_bias")
    prompt = data.get("prompt")
    if prompt in ("", []) or (isinstance(prompt, list) and any(item in ("", []) for item in prompt)):
        raise invalid("prompt: A prompt may not be empty.", "prompt")
    if isinstance(prompt, list) and not (_ids(prompt) or _strings(prompt) or all(map(_ids, prompt))):
        raise invalid("prompt: A string, token ids, or a list of either is required.", "prompt")
    messages = data.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            param = f"messages.{index}.role"
            raise invalid(f"{param}: A message needs a role, one of: {', '.join(ROLES)}.", param)
        content = message.get("content")
        parts = content if isinstance(content, list) else ()
        if not isinstance(content, str | list | None) or not all(isinstance(part, dict) for part in parts):
            param = f"messages.{index}.content"
            raise invalid(f"{param}: A string or a list of content parts is required.", param)


Ids = list[Annotated[int, Field(ge=0)]]


class ChatRequest(_DecodingMixin, ChatCompletionRequest):
    """`POST /v1/chat/completions`."""

    messages: list[ChatCompletionMessageParam] = Field(
        min_length=1, fail_fast=True, description="The conversation so far."
    )
    tools: list[ChatCompletionToolsParam] | None = Field(default=None, fail_fast=True)
    decoding: DecodingRequest | None = Field(  # type: ignore[valid-type]
        default=None, description="Decoding methods, at most one a layer; see GET /v1/decoding/methods."
    )


class TextRequest(_DecodingMixin, CompletionRequest):
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
