"""Takes the caller's own input out of messages that vLLM and its libraries wrote."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

PROBE = 24  # characters by which a shortened value is known
SHORTEST = 4  # a value of fewer characters is not worth hiding, and hiding it garbles words
LONGEST = 1200  # characters of a message that are kept; only values that can stand in it are looked for
MOST = 20_000  # values that are looked for
TOO_MANY = "This value is not allowed."


def scrub(message: str, body: Any, vocabulary: frozenset[str]) -> str:
    """`message` with every value of `body` in it replaced by an ellipsis.

    Args:
        message: the text of an error.
        body: the parsed request body, or the part of it the error is about.
        vocabulary: words of the API itself (field names, literals), which stay.
    """
    message = message[:LONGEST]
    values = set(islice(_leaves(body), MOST + 1)) - vocabulary
    if len(values) > MOST:
        return TOO_MANY
    found = {form for value in values for form in _forms(value) if form[:PROBE] in message}
    for form in sorted(found, key=len, reverse=True):
        inside = any(form in word for word in vocabulary)
        message = _remove_word(message, form) if inside else _remove(message, form)
    return message


def _forms(value: str) -> list[str]:
    """A value as it may stand in a message; of long ones the beginning is enough."""
    value = value[:LONGEST]
    return [form for form in {value, repr(value)[1:-1], value.strip()} if len(form) >= SHORTEST]


def _remove_word(message: str, value: str) -> str:
    """Remove a value that is also part of a word of the API only where it stands alone."""
    return re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "…", message)


def _remove(message: str, value: str) -> str:
    message = message.replace(value, "…")
    probe = value[:PROBE]
    if len(value) <= PROBE or (start := message.find(probe)) < 0:
        return message
    end = start + len(probe)  # the message holds a shortened form of the value
    while end < len(message) and end - start < len(value) and message[end] == value[end - start]:
        end += 1
    return message[:start] + "…" + message[end:]


def _leaves(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def pieces(value: Any) -> list[str]:
    """The words that the values of `value` are made of."""
    return [word for leaf in islice(_leaves(value), MOST) for word in re.split(r"\W+", leaf)]


def words(schema: Any) -> frozenset[str]:
    """The words a JSON schema itself uses: property names, literals and titles."""
    found: set[str] = set()
    stack = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            found.update(item.get("properties", {}))
            found.update(v for v in item.get("enum", ()) if isinstance(v, str))
            if isinstance(item.get("const"), str):
                found.add(item["const"])
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return frozenset(found)
