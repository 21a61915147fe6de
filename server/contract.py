"""What a body must satisfy before pydantic reads it: OpenAI's contract where vLLM is laxer.

Checks stop at the first wrong item of a list. pydantic would gather an error for every item and every branch
of a union, with the input, in memory.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from decoders.exact import Shape
from server.errors import invalid

Body = dict[str, Any]

# OpenAI's fields that change nothing about an answer of a local model: accepted, and documented as such.
INERT = frozenset({"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"})
# Fields that would change it and that no engine here honours, with what to do instead.
REFUSED = {
    "audio": "this server has no audio output",
    "ec_transfer_params": "this server runs no disaggregated engines",
    "function_call": "use 'tool_choice'",
    "mm_payload": "this server has no render endpoints",
    "request_id": "send the header X-Request-Id",
    "return_mm_kwargs": "this server has no render endpoints",
    "return_token_offsets": "this server has no render endpoints",
    "routed_experts_prompt_start": "no engine here returns routed experts",
    "session_id": "this server does no routing by session",
    "watermarking": "no engine here is set up for it",
    "functions": "use 'tools'",
    "kv_transfer_params": "this server runs no disaggregated engines",
    "media_io_kwargs": "clients may not choose how media are loaded",
    "mm_processor_kwargs": "clients may not choose how media are processed",
    "moderation": "this server has no moderation",
    "prediction": "predicted outputs are not supported",
    "prompt_embeds": "send text or token ids",
    "verbosity": "say so in the prompt",
    "web_search_options": "this server has no web search",
}
# OpenAI's fields of which only these values mean what is done anyway.
ONLY: dict[str, tuple[Any, ...]] = {
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
# What the chat template is given by the server itself.
TEMPLATE_OWN = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "documents",
        "messages",
        "tokenize",
        "tools",
    }
)
# vLLM's beam search heeds these and no other field that shapes an answer.
BEAM_SEARCH = frozenset(
    {"add_generation_prompt", "add_special_tokens", "cache_salt", "chat_template_kwargs"}
    | {"continue_final_message", "decoding", "documents", "ignore_eos"}
    | {"include_stop_str_in_output", "length_penalty", "logprobs", "max_completion_tokens"}
    | {"max_tokens", "messages", "model", "n", "prompt", "priority", "reasoning_effort"}
    | {"return_token_ids", "return_tokens_as_token_ids", "skip_special_tokens", "temperature"}
    | {"top_logprobs", "truncate_prompt_tokens", "truncation_side", "use_beam_search", "stream"}
)
# Fields that do something only beside another one.
BESIDE = {
    "length_penalty": "use_beam_search",
    "stream_interval": "stream",
    "stream_options": "stream",
    "truncation_side": "truncate_prompt_tokens",
}
# The fields of objects inside a body; vLLM takes any other for no field at all.
NESTED: dict[str, frozenset[str]] = {
    "stream_options": frozenset({"include_usage", "continuous_usage_stats"}),
    "json_schema": frozenset({"name", "description", "schema", "strict"}),
    "tool": frozenset({"type", "function", "defer_loading"}),
    "function": frozenset({"name", "description", "parameters", "strict", "defer_loading"}),
}
STRICT = Shape(frozenset({"boolean"}))
XARGS = 64  # most entries in vllm_xargs
KINDS = {"boolean": "true or false", "integer": "an integer", "number": "a number", "string": "a string"}


def normalised(data: Any, known: Mapping[str, Shape]) -> Any:
    """The body with every null left out, as OpenAI's API takes null, if nothing in it would be ignored.

    known: the fields of the body's model. Errors: ApiError 400 that names the field.
    """
    if not isinstance(data, dict):
        return data
    data = {key: value for key, value in data.items() if value is not None}
    for key, value in data.items():
        if key in REFUSED:
            raise invalid(f"'{key}' cannot be used here: {REFUSED[key]}.", key, "unsupported_field")
        if key in ONLY and key not in known:
            if not any(type(value) is type(one) and value == one for one in ONLY[key]):  # 0 is not false
                allowed = " or ".join(repr(v) for v in ONLY[key])
                raise invalid(f"'{key}' can only be {allowed} here.", key)
        elif key not in known and key not in INERT:
            raise invalid(f"Unknown field: {key[:64]}.", key, "unknown_field")
    for key, check in CHECKS.items():
        if key in data:
            check(data[key])
    for key, value in data.items():
        if key in known:
            _exact(known[key], value, key)
    _stream_options(data)
    _together(data)
    return data


def _exact(shape: Shape, value: Any, where: str) -> None:
    """Refuse what pydantic would convert: vLLM's models take true for 1, and "yes" or 1 for true."""
    if not shape.takes(value):
        wanted = [KINDS[kind] for kind in sorted(shape.kinds or ())]
        wanted += ["a list"] * (shape.item is not None) + ["an object"] * (shape.fields is not None)
        raise invalid(f"{where}: {' or '.join(wanted).capitalize()} is required.", where)
    if isinstance(value, dict) and shape.fields is not None:
        for key, one in value.items():
            if key in shape.fields:
                _exact(shape.fields[key], one, f"{where}.{key}")
    elif isinstance(value, list | dict) and (item := shape.item) is not None:
        inside = dict(enumerate(value)) if isinstance(value, list) else value
        if not item.takes_all(inside.values()):
            for key, one in inside.items():
                _exact(item, one, f"{where}.{str(key)[:64]}")


def _together(data: Body) -> None:
    if data.get("continue_final_message") and data.get("add_generation_prompt"):
        raise invalid(
            "continue_final_message and add_generation_prompt cannot both be true.", "continue_final_message"
        )
    for field, partner in BESIDE.items():
        if data.get(field) and not data.get(partner):
            raise invalid(f"{field}: Does nothing without {partner}; leave it out.", field)
    if data.get("use_beam_search"):
        if data.get("stream"):
            raise invalid("Beam search cannot be streamed; leave one of them out.", "use_beam_search")
        for field in data.keys() - BEAM_SEARCH - INERT - ONLY.keys():
            raise invalid(f"{field}: Beam search does not heed it; leave one of them out.", field)


def _stream_options(data: Body) -> None:
    options = data.get("stream_options")
    if isinstance(options, dict):
        data["stream_options"] = {key: value for key, value in options.items() if value is not None}
        _known("stream_options", data["stream_options"], "stream_options")
        if not data["stream_options"]:
            del data["stream_options"]


def _known(kind: str, value: Body, where: str) -> None:
    for key in value.keys() - NESTED[kind]:
        param = f"{where}.{key[:64]}"
        raise invalid(
            f"{param}: Unknown field; allowed: {', '.join(sorted(NESTED[kind]))}.", param, "unknown_field"
        )


# ---- single fields ---------------------------------------------------------------------------------------


def check_messages(messages: Any) -> None:
    """A list, of which every message has a known role and a content of the right kind."""
    if not isinstance(messages, list):
        raise invalid("messages: A list of messages is required.", "messages")
    for index, message in enumerate(messages):
        _check_message(message, f"messages.{index}")


def _check_message(message: Any, where: str) -> None:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in ROLES:
        raise invalid(f"{where}.role: A message needs a role, one of: {', '.join(ROLES)}.", f"{where}.role")
    content = message.get("content")
    calls = message.get("tool_calls")
    if content is None and not (role == "assistant" and calls):
        raise invalid(
            f"{where}.content: A {role} message needs content.", f"{where}.content", "missing_field"
        )
    parts = content if isinstance(content, list) else ()
    if not isinstance(content, str | list | None) or not all(isinstance(part, dict) for part in parts):
        raise invalid(
            f"{where}.content: A string or a list of content parts is required.", f"{where}.content"
        )
    for index, part in enumerate(parts):
        if part.get("type", "text") == "text" and not isinstance(part.get("text"), str):
            raise invalid(
                f"{where}.content.{index}.text: A string is required.", f"{where}.content.{index}.text"
            )
    if calls is not None and not isinstance(calls, list):
        raise invalid(f"{where}.tool_calls: A list is required.", f"{where}.tool_calls")
    for index, call in enumerate(calls or ()):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            param = f"{where}.tool_calls.{index}.function"
            raise invalid(f"{param}: A function with a name is required.", param)


def check_prompt(prompt: Any) -> None:
    if prompt in ("", []) or (isinstance(prompt, list) and any(item in ("", []) for item in prompt)):
        raise invalid("prompt: A prompt may not be empty.", "prompt")
    if isinstance(prompt, list) and not (_ids(prompt) or _strings(prompt) or all(map(_ids, prompt))):
        raise invalid("prompt: A string, token ids, or a list of either is required.", "prompt")


def _ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _strings(value: list[Any]) -> bool:
    return all(type(item) is str for item in value)


def check_candidates(candidates: Any) -> None:
    """Every candidate is text that is not empty: an empty answer has no tokens to score."""
    for index, text in enumerate(candidates if isinstance(candidates, list) else ()):
        if not isinstance(text, str) or not text.strip():
            raise invalid(f"candidates.{index}: Text is required, and not empty.", f"candidates.{index}")


def check_template_arguments(arguments: Any) -> None:
    for key in TEMPLATE_OWN.intersection(arguments if isinstance(arguments, dict) else ()):
        raise invalid(f"chat_template_kwargs: '{key}' cannot be set here.", "chat_template_kwargs")


def check_constraint(outputs: Any) -> None:
    """One constraint, and no option that only a whole engine could honour."""
    if outputs is None:
        return
    if not isinstance(outputs, dict):
        raise invalid("structured_outputs: An object is required.", "structured_outputs")
    given = [key for key, value in outputs.items() if value is not None]
    allowed = ", ".join(CONSTRAINTS)
    if not set(given) <= set(CONSTRAINTS):
        raise invalid(
            f"structured_outputs: Unknown option; allowed: {allowed}.", "structured_outputs", "unknown_field"
        )
    if len(given) != 1:
        raise invalid(f"structured_outputs: Give exactly one of {allowed}.", "structured_outputs")
    choices = outputs.get("choice")
    if isinstance(choices, list) and not _strings(choices):
        raise invalid("structured_outputs.choice: Every item must be a string.", "structured_outputs")
    for key in ("json", "structural_tag"):
        check_references(outputs.get(key), "structured_outputs")


def check_response_format(response_format: Any) -> None:
    schema = response_format.get("json_schema") if isinstance(response_format, dict) else None
    if isinstance(schema, dict):
        _known("json_schema", schema, "response_format.json_schema")
        _exact(STRICT, schema.get("strict"), "response_format.json_schema.strict")
    check_references(response_format, "response_format")


def check_tools(tools: Any) -> None:
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(tool, dict):
            raise invalid(f"tools.{index}: An object is required.", f"tools.{index}")
        _known("tool", tool, f"tools.{index}")
        function = tool.get("function")
        if isinstance(function, dict):
            _known("function", function, f"tools.{index}.function")
            check_references(function.get("parameters"), f"tools.{index}.function.parameters")


def check_references(schema: Any, param: str) -> None:
    """A schema refers to itself only; a reference to elsewhere would be taken for no constraint at all."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)  # as vLLM reads it: stricter parsers refuse some of what it takes
        except ValueError:
            return  # what is no JSON is refused by whoever compiles it
        except RecursionError:
            raise invalid(f"{param}: The JSON is nested too deeply.", param) from None
    stack = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            target = item.get("$ref")
            if isinstance(target, str) and not target.startswith("#"):
                raise invalid(f"{param}: A $ref must point into the schema itself and begin with '#'.", param)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def check_xargs(arguments: Any) -> None:
    if not isinstance(arguments, dict):
        return
    if len(arguments) > XARGS:
        raise invalid(f"vllm_xargs: At most {XARGS} entries are allowed.", "vllm_xargs")
    for value in arguments.values():
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str | int | float) for item in items):
            raise invalid(
                "vllm_xargs: Every value must be a string, a number, or a list of these.", "vllm_xargs"
            )


def check_documents(documents: Any) -> None:
    for index, document in enumerate(documents if isinstance(documents, list) else ()):
        if not isinstance(document, dict) or not all(isinstance(text, str) for text in document.values()):
            raise invalid(f"documents.{index}: An object of strings is required.", f"documents.{index}")


CHECKS: dict[str, Callable[[Any], None]] = {
    "messages": check_messages,
    "prompt": check_prompt,
    "candidates": check_candidates,
    "chat_template_kwargs": check_template_arguments,
    "structured_outputs": check_constraint,
    "response_format": check_response_format,
    "tools": check_tools,
    "vllm_xargs": check_xargs,
    "documents": check_documents,
}
