"""One choice decoded piece by piece: what each piece asks its engine for."""

from typing import TYPE_CHECKING, Any, Final

from decoders.errors import Refusal

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams

# Fields whose state vLLM keeps from a request's first token to its last, with the values that need none.
WHOLE: Final[dict[str, tuple[Any, ...]]] = {
    "structured_outputs": (None,),
    "prompt_logprobs": (None,),
    "repetition_detection": (None,),
    "thinking_token_budget": (None,),
    "watermarking": (None, False),
}


def refuse_whole(params: "SamplingParams", method: str) -> None:
    """Raise Refusal for a parameter that only an undivided request can honour."""
    for field, harmless in WHOLE.items():
        if getattr(params, field, None) not in harmless:
            raise Refusal(f"{field} cannot be combined with '{method}', which divides the answer.", field)


def piece(params: "SamplingParams", emitted: int, limit: int, extra: dict[str, Any]) -> "SamplingParams":
    """Parameters of the next piece of an answer of at most `limit` tokens, `emitted` of which are there.

    Text is the caller's work; so are penalties and bad words, which have to see the whole answer: they are
    taken out. A seeded request draws from another stream in every piece.
    """
    from vllm.sampling_params import RequestOutputKind

    made = params.clone()
    made.n, made.output_kind = 1, RequestOutputKind.DELTA
    made.detokenize, made.stop, made.output_text_buffer_length = False, [], 0
    made.max_tokens = limit - emitted
    made.min_tokens = max(0, params.min_tokens - emitted)
    made.presence_penalty = made.frequency_penalty = 0.0
    made.repetition_penalty = 1.0
    made.bad_words, made._bad_words_token_ids = None, None
    if params.seed is not None:
        made.seed = (params.seed + emitted) % 2**63
    made.extra_args = {**(params.extra_args or {}), **extra}
    return made
