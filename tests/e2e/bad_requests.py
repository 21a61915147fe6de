"""The bad requests: each a good one with something wrong in it, and the field that must be named."""

from dataclasses import dataclass
from typing import Any

MARK = "ZQXvkwjhtbm"  # in every offending value that can hold it; must never come back
BIG = 99_999_999  # a token id outside every vocabulary here
LEAVE_OUT = object()
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "pick", "parameters": SCHEMA}}
NAMED = {"type": "function", "function": {"name": f"{MARK}_tool"}}


@dataclass(frozen=True)
class Bad:
    """`change` is laid over a good request; the error must name `param` or a field inside it."""

    name: str
    change: dict[str, Any]
    param: str | None
    code: str | None = None
    status: int = 400
    streams: tuple[bool, ...] = (False, True)


def bad(name: str, change: dict[str, Any], param: str | None = None, **expected: Any) -> Bad:
    """By default the field at fault is the only one changed."""
    return Bad(name, change, param or next(iter(change)), **expected)


def decoding(name: str, value: Any, param: str, **expected: Any) -> Bad:
    return Bad(f"decoding: {name}", {"decoding": value}, param, **expected)


def sequence(name: str, value: Any, param: str, **expected: Any) -> Bad:
    return decoding(name, {"sequence": value}, f"decoding.sequence{param}", **expected)


UNKNOWN = "unknown_field"
MISSING = "missing_field"

# Wrong on both routes alike.
SAMPLING = [
    bad("n zero", {"n": 0}),
    bad("n negative", {"n": -1}),
    bad("n over the limit", {"n": 17}),
    bad("n huge", {"n": 1_000_000}),
    bad("n text", {"n": MARK}),
    bad("n fraction", {"n": 1.5}),
    bad("n of a greedy request", {"n": 2, "temperature": 0}),
    bad("max_tokens negative", {"max_tokens": -1}),
    bad("max_tokens zero", {"max_tokens": 0}),
    bad("max_tokens beyond the context", {"max_tokens": 1_000_000_000}),
    bad("max_tokens text", {"max_tokens": MARK}),
    bad("min_tokens above max_tokens", {"min_tokens": 100}),
    bad("min_tokens negative", {"min_tokens": -1}),
    bad("temperature negative", {"temperature": -1}),
    bad("temperature text", {"temperature": MARK}),
    bad("temperature list", {"temperature": [MARK]}),
    bad("top_p above one", {"top_p": 2}),
    bad("top_p zero", {"top_p": 0}),
    bad("top_p text", {"top_p": MARK}),
    bad("top_k negative", {"top_k": -5}),
    bad("min_p above one", {"min_p": 2}),
    bad("frequency_penalty high", {"frequency_penalty": 3}),
    bad("presence_penalty low", {"presence_penalty": -3}),
    bad("repetition_penalty zero", {"repetition_penalty": 0}),
    bad("seed text", {"seed": MARK}),
    bad("seed fraction", {"seed": 1.5}),
    bad("seed over 64 bits", {"seed": 2**70}),
    bad("stop too many", {"stop": [f"{MARK}{i}" for i in range(17)]}),
    bad("stop empty string", {"stop": ""}),
    bad("stop with an empty string", {"stop": [MARK, ""]}),
    bad("stop number", {"stop": 7}),
    bad("stop list of objects", {"stop": [{MARK: 1}]}),
    bad("stop_token_ids out of vocabulary", {"stop_token_ids": [BIG]}),
    bad("stop_token_ids text", {"stop_token_ids": [MARK]}),
    bad("allowed_token_ids out of vocabulary", {"allowed_token_ids": [BIG]}),
    bad("allowed_token_ids empty", {"allowed_token_ids": []}),
    bad("bad_words with an empty string", {"bad_words": [""]}),
    bad("logit_bias key is no number", {"logit_bias": {MARK: 1}}),
    bad("logit_bias key out of vocabulary", {"logit_bias": {str(BIG): 1}}),
    bad("logit_bias value out of range", {"logit_bias": {"5": 1000}}),
    bad("logit_bias value is text", {"logit_bias": {"5": MARK}}),
    bad("logit_bias list", {"logit_bias": [MARK]}),
    bad("logprobs text", {"logprobs": MARK}),
    bad("prompt_logprobs below none", {"prompt_logprobs": -1}),
    bad("prompt_logprobs over the limit", {"prompt_logprobs": 10_000}),
    bad("prompt_logprobs of a stream", {"prompt_logprobs": 1}, streams=(True,)),
]
FIELDS = [
    bad("model unknown", {"model": MARK}, code="model_not_found", status=404),
    bad("model number", {"model": 7}),
    bad("stream text", {"stream": MARK}, streams=(False,)),
    bad("stream_options without stream", {"stream_options": {"include_usage": True}}, streams=(False,)),
    bad("stream_options text", {"stream_options": MARK}, streams=(True,)),
    bad("stream_options of a wrong type", {"stream_options": {"include_usage": MARK}}, streams=(True,)),
    bad("unknown field", {"not_a_field": MARK}, code=UNKNOWN),
    bad("unknown field with an object", {"not_a_field": {MARK: [MARK]}}, code=UNKNOWN),
    bad("best_of", {"best_of": 2}),
    bad("service tier", {"service_tier": MARK}),
    bad("store", {"store": True}),
    bad("kv_transfer_params", {"kv_transfer_params": {MARK: 1}}),
    bad("vllm_xargs text", {"vllm_xargs": MARK}),
    bad("vllm_xargs nested", {"vllm_xargs": {"a": {"b": MARK}}}),
    bad("vllm_xargs reserved", {"vllm_xargs": {"decant.call": MARK}}),
    bad("cache_salt empty", {"cache_salt": ""}),
    bad("priority without a policy", {"priority": 5}),
    bad("skip_special_tokens text", {"skip_special_tokens": MARK}),
    bad("response_format unknown type", {"response_format": {"type": MARK}}),
    bad("response_format text", {"response_format": MARK}),
    bad("response_format without its schema", {"response_format": {"type": "json_schema"}}),
    bad(
        "response_format with an invalid schema",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": MARK}}}},
    ),
    bad("structured_outputs no object", {"structured_outputs": [MARK]}),
    bad("structured_outputs text", {"structured_outputs": MARK}),
    bad("structured_outputs invalid schema", {"structured_outputs": {"json": {"type": MARK}}}),
    bad("structured_outputs invalid regex", {"structured_outputs": {"regex": f"({MARK}["}}),
    bad("structured_outputs invalid grammar", {"structured_outputs": {"grammar": f"{MARK} ::= ("}}),
    bad("structured_outputs endless schema", {"structured_outputs": {"json": {"$ref": "#"}}}),
    bad("structured_outputs dangling schema", {"structured_outputs": {"json": {"$ref": f"#/no/{MARK}"}}}),
    bad("structured_outputs endless grammar", {"structured_outputs": {"grammar": "root ::= root"}}),
    bad(
        "structured_outputs option no engine heeds",
        {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}},
    ),
    bad("structured_outputs no choices", {"structured_outputs": {"choice": []}}),
    bad("structured_outputs two at once", {"structured_outputs": {"regex": MARK, "choice": [MARK]}}),
    bad("structured_outputs unknown kind", {"structured_outputs": {MARK: 1}}),
]
BEAMS = {"use_beam_search": True, "n": 2, "temperature": 0}
DECODING = [
    decoding("text", MARK, "decoding"),
    decoding("list", [MARK], "decoding"),
    decoding("unknown layer", {"not_a_layer": MARK}, "decoding.not_a_layer", code=UNKNOWN),
    decoding("report text", {"report": MARK}, "decoding.report"),
    decoding("no such logits method", {"logits": {"method": MARK}}, "decoding.logits"),
    decoding("no such cache method", {"cache": {"method": MARK}}, "decoding.cache.method"),
    sequence("method unknown", {"method": MARK}, ".method"),
    sequence("method missing", {}, ".method", code=MISSING),
    sequence("method number", {"method": 7}, ".method"),
    sequence("method is the layer", MARK, ""),
    sequence("engine unknown", {"method": "plain", "engine": MARK}, ".engine"),
    sequence("engine number", {"method": "plain", "engine": 7}, ".engine"),
    sequence("engine very long", {"method": "plain", "engine": MARK * 1000}, ".engine"),
    sequence("unknown parameter", {"method": "plain", "speed": MARK}, ".speed", code=UNKNOWN),
    Bad(
        "beam search with decoding",
        {**BEAMS, "decoding": {"sequence": {"method": "plain"}}},
        "use_beam_search",
        streams=(False,),
    ),
]


def message(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content, **more}]}


CHAT_ONLY = [
    bad("messages missing", {"messages": LEAVE_OUT}, code=MISSING),
    bad("messages null", {"messages": None}),
    bad("messages empty", {"messages": []}),
    bad("messages text", {"messages": MARK}),
    bad("messages list of text", {"messages": [MARK]}),
    bad("message without a role", {"messages": [{"content": MARK}]}),
    bad("message with a wrong role", {"messages": [{"role": MARK, "content": MARK}]}),
    bad("message content number", message(7)),
    bad("message content object", message({MARK: MARK})),
    bad("message without content", {"messages": [{"role": "user"}]}),
    bad("content part of an unknown type", message([{"type": MARK, "text": MARK}])),
    bad("content part without its text", message([{"type": "text"}])),
    bad("image for a text model", message([{"type": "image_url", "image_url": {"url": f"data:{MARK}"}}])),
    bad("message too long", message(f"{MARK} one two three " * 1000)),
    bad("top_logprobs without logprobs", {"top_logprobs": 2}),
    bad("top_logprobs over the limit", {"top_logprobs": 10_000, "logprobs": True}),
    bad("top_logprobs negative", {"top_logprobs": -1, "logprobs": True}),
    bad("max_completion_tokens negative", {"max_completion_tokens": -1}),
    bad("tools empty", {"tools": []}),
    bad("tools text", {"tools": MARK}),
    bad("tool without a function", {"tools": [{"type": "function"}]}),
    bad("tool without a name", {"tools": [{"type": "function", "function": {"description": MARK}}]}),
    bad(
        "tool with an invalid schema",
        {
            "tool_choice": "required",
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "pick", "strict": True, "parameters": {"type": MARK}},
                }
            ],
        },
        "tools",
    ),
    bad("tool_choice without tools", {"tool_choice": "required"}),
    bad("tool_choice of a tool without tools", {"tool_choice": NAMED}),
    bad("tool_choice of an unknown tool", {"tool_choice": NAMED, "tools": [TOOL]}),
    bad("tool_choice unknown word", {"tool_choice": MARK, "tools": [TOOL]}),
    bad("functions", {"functions": [{"name": MARK}]}, code="unsupported_field"),
    bad("modalities", {"modalities": ["audio", MARK]}),
    bad("web_search_options", {"web_search_options": {MARK: 1}}, code="unsupported_field"),
    bad("reasoning_effort unknown", {"reasoning_effort": MARK}),
    bad("chat_template of the request", {"chat_template": MARK}),
    bad("chat_template_kwargs text", {"chat_template_kwargs": MARK}),
    bad("chat_template_kwargs with a template", {"chat_template_kwargs": {"chat_template": MARK}}),
    bad("tool call without a function", {"messages": [{"role": "assistant", "tool_calls": [{"id": MARK}]}]}),
    bad(
        "generation prompt in a message that is continued",
        {"continue_final_message": True, "add_generation_prompt": True},
    ),
]
TEXT_ONLY = [
    bad("prompt missing", {"prompt": LEAVE_OUT}),
    bad("prompt null", {"prompt": None}),
    bad("prompt empty", {"prompt": ""}),
    bad("prompt empty list", {"prompt": []}),
    bad("prompt with an empty one", {"prompt": [MARK, ""]}),
    bad("prompt of no tokens", {"prompt": [[]]}),
    bad("prompt object", {"prompt": {MARK: MARK}}),
    bad("prompt number", {"prompt": 7}),
    bad("prompt of fractions", {"prompt": [1.5, 2.5]}),
    bad("prompt mixed", {"prompt": [MARK, 7]}),
    bad("prompt text too long", {"prompt": f"{MARK} one two three " * 1000}),
    bad("prompt tokens too long", {"prompt": [5] * 20_000}),
    bad("prompt token out of vocabulary", {"prompt": [5, BIG]}),
    bad("prompt token negative", {"prompt": [5, -1]}),
    bad("prompts times n over the limit", {"prompt": ["a"] * 40, "n": 16, "temperature": 1}, "n"),
    bad("prompts over the limit", {"prompt": ["a"] * 1000}),
    bad("logprobs over the limit", {"logprobs": 10_000}),
    bad("logprobs negative", {"logprobs": -1}),
    bad("logprobs of tokens out of vocabulary", {"logprob_token_ids": [BIG], "logprobs": 1}),
    bad("beam search of a stream", BEAMS, streams=(True,)),
    bad("suffix", {"suffix": MARK}),
    bad("echo text", {"echo": MARK}),
    bad("prompt_embeds", {"prompt_embeds": MARK}),
]
TOKENIZE = [
    bad("prompt missing", {"prompt": LEAVE_OUT}),
    bad("prompt number", {"prompt": 7}),
    bad("model unknown", {"model": MARK}, code="model_not_found", status=404),
    bad("add_special_tokens text", {"add_special_tokens": MARK}),
    bad("wrong role", {"prompt": LEAVE_OUT, "messages": [{"role": MARK, "content": MARK}]}, "messages"),
]
DETOKENIZE = [
    bad("tokens missing", {"tokens": LEAVE_OUT}, code=MISSING),
    bad("tokens text", {"tokens": MARK}),
    bad("token text", {"tokens": [MARK]}),
    bad("token out of vocabulary", {"tokens": [BIG]}),
    bad("token negative", {"tokens": [-1]}),
    bad("token over 64 bits", {"tokens": [2**70]}),
    bad("model unknown", {"model": MARK}, code="model_not_found", status=404),
]
BOTH = [*SAMPLING, *FIELDS, *DECODING]
BY_ROUTE: dict[str, list[Bad]] = {"chat": [*BOTH, *CHAT_ONLY], "text": [*BOTH, *TEXT_ONLY]}
TOKENIZER: dict[str, list[Bad]] = {"/tokenize": TOKENIZE, "/detokenize": DETOKENIZE}
