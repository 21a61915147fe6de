"""Request bodies of the two generating routes: vLLM's own, plus `decoding`, minus what would be ignored."""

from typing import Any

from pydantic import ConfigDict, Field, PrivateAttr, model_validator
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
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
# vLLM's fields that act only with a deployment feature Decant does not start.
DISAGGREGATED = ("kv_transfer_params", "ec_transfer_params")


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
            if key in known or key in INERT:
                continue
            _require_harmless(key, value)
        for key in DISAGGREGATED:
            if key in data:
                raise invalid("This server runs no disaggregated engines; leave the field out.", key)
        if isinstance(data.get("stream_options"), dict):
            data["stream_options"] = {k: v for k, v in data["stream_options"].items() if v is not None}
        if data.get("stream_options") == {} and not data.get("stream"):
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


class ChatRequest(_DecodingMixin, ChatCompletionRequest):
    """`POST /v1/chat/completions`."""

    messages: list[ChatCompletionMessageParam] = Field(min_length=1, description="The conversation so far.")
    decoding: DecodingRequest | None = Field(  # type: ignore[valid-type]
        default=None, description="Decoding methods, at most one a layer; see GET /v1/decoding/methods."
    )


class TextRequest(_DecodingMixin, CompletionRequest):
    """`POST /v1/completions`."""

    decoding: DecodingRequest | None = Field(  # type: ignore[valid-type]
        default=None, description="Decoding methods, at most one a layer; see GET /v1/decoding/methods."
    )


GeneratingRequest = ChatRequest | TextRequest


def decoding_of(request: GeneratingRequest) -> Decoding:
    return request.decoding if request.decoding is not None else DecodingRequest()
