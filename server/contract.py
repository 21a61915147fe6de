"""What a body must satisfy before pydantic reads it: OpenAI's contract where vLLM is laxer.

Checks stop at the first wrong item of a list. pydantic would gather an error for every item and every branch
of a union, with the input, in memory.
"""

from collections.abc import Callable, Iterable
from typing import Any

from server.errors import invalid

Body = dict[str, Any]

# OpenAI's fields that change nothing about an answer of a local model: accepted, and documented as such.
INERT = frozenset({"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"})
# Fields that would change it and that no engine here honours, with what to do instead.
REFUSED = {
    "audio": "this server has no audio output",
    "chat_template": "the server's own chat template is used",
    "ec_transfer_params": "this server runs no disaggregated engines",
    "function_call": "use 'tool_choice'",
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
SCALARS: dict[str, type] = {
    "allowed_token_ids": int,
    "bad_words": str,
    "logprob_token_ids": int,
    "stop": str,
    "stop_token_ids": int,
}


def normalised(data: Any, known: Iterable[str]) -> Any:
    """The body with every null left out, as OpenAI's API takes null, if nothing in it would be ignored.

    Errors: ApiError 400 that names the field.
    """
    if not isinstance(data, dict):
        return data
    data = {key: value for key, value in data.items() if value is not None}
    known = frozenset(known)
    for key, value in data.items():
        if key in REFUSED:
            raise invalid(f"'{key}' cannot be used here: {REFUSED[key]}.", key, "unsupported_field")
        if key in ONLY and key not in known:
            if value not in ONLY[key]:
                allowed = " or ".join(repr(v) for v in ONLY[key])
                raise invalid(f"'{key}' can only be {allowed} here.", key)
        elif key not in known and key not in INERT:
            raise invalid(f"Unknown field: {key[:64]}.", key, "unknown_field")
    for key, check in CHECKS.items():
        if key in data:
            check(data[key])
    for key, kind in SCALARS.items():
        _scalars(key, data.get(key), kind)
    _together(data)
    return _stream_options(data)


def _scalars(key: str, items: Any, kind: type) -> None:
    if isinstance(items, list) and not all(type(item) is kind for item in items):
        raise invalid(f"{key}: Every item must be {'an integer' if kind is int else 'a string'}.", key)


def _together(data: Body) -> None:
    if data.get("continue_final_message") and data.get("add_generation_prompt"):
        raise invalid(
            "continue_final_message and add_generation_prompt cannot both be true.", "continue_final_message"
        )
    if data.get("use_beam_search") and data.get("stream"):
        raise invalid("Beam search cannot be streamed; leave one of them out.", "use_beam_search")


def _stream_options(data: Body) -> Body:
    options = data.get("stream_options")
    if isinstance(options, dict):
        data["stream_options"] = {key: value for key, value in options.items() if value is not None}
        if not data["stream_options"] and not data.get("stream"):
            del data["stream_options"]
    return data


# ---- single fields ---------------------------------------------------------------------------------------


def check_messages(messages: Any) -> None:
    """Every message has a known role and a content of the right kind."""
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
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


def check_logit_bias(bias: Any) -> None:
    if isinstance(bias, dict) and not all(type(value) in (int, float) for value in bias.values()):
        raise invalid("logit_bias: Every value must be a number.", "logit_bias")


def check_template_arguments(arguments: Any) -> None:
    for key in TEMPLATE_OWN.intersection(arguments if isinstance(arguments, dict) else ()):
        raise invalid(f"chat_template_kwargs: '{key}' cannot be set here.", "chat_template_kwargs")


def check_constraint(outputs: Any) -> None:
    """One constraint, and no option that only a whole engine could honour."""
    if not isinstance(outputs, dict):
        return
    given = [key for key, value in outputs.items() if value is not None]
    allowed = ", ".join(CONSTRAINTS)
    if not set(given) <= set(CONSTRAINTS):
        raise invalid(
            f"structured_outputs: Unknown option; allowed: {allowed}.", "structured_outputs", "unknown_field"
        )
    if len(given) != 1:
        raise invalid(f"structured_outputs: Give exactly one of {allowed}.", "structured_outputs")
    check_references(outputs.get("json"), "structured_outputs")


def check_response_format(response_format: Any) -> None:
    schema = response_format.get("json_schema") if isinstance(response_format, dict) else None
    check_references(schema.get("schema") if isinstance(schema, dict) else None, "response_format")


def check_references(schema: Any, param: str) -> None:
    """A schema refers to itself only; a reference to elsewhere would be taken for no constraint at all."""
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


CHECKS: dict[str, Callable[[Any], None]] = {
    "messages": check_messages,
    "prompt": check_prompt,
    "logit_bias": check_logit_bias,
    "chat_template_kwargs": check_template_arguments,
    "structured_outputs": check_constraint,
    "response_format": check_response_format,
}
