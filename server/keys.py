"""API keys as the configuration gives them: kept as hashes, known by name."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-+]{0,63}")
HASHED = "sha256:"
_HEX = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class ApiKey:
    """One key: the name it goes by in logs, metrics and limits, and its SHA-256 digest."""

    name: str
    digest: bytes


def digest_of(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(entries: Iterable[str]) -> list[ApiKey]:
    """Keys from entries `KEY` or `NAME KEY`, where KEY may be `sha256:HEX`, its hash.

    A key without a name is called `key-1`, `key-2`, ... by its place. Errors: ValueError that names the place
    of an entry which is none of these, or whose name or key is another's; it never repeats the entry.
    """
    keys: list[ApiKey] = []
    for place, entry in enumerate(entries, start=1):
        name, text = _split(entry, place)
        key = ApiKey(name, _digest(text, place))
        if any(key.digest == other.digest for other in keys):
            raise ValueError(f"API key {place} is given twice")
        if any(key.name == other.name for other in keys):
            raise ValueError(f"API key {place} has the name of another key")
        keys.append(key)
    return keys


def _split(entry: str, place: int) -> tuple[str, str]:
    words = entry.split()
    if len(words) == 1:
        return f"key-{place}", words[0]
    if len(words) != 2 or not NAME.fullmatch(words[0]):
        raise ValueError(
            f"API key {place} must be KEY or NAME KEY, separated by a space; a name has up to 64 letters, "
            "digits and _.-+"
        )
    return words[0], words[1]


def _digest(text: str, place: int) -> bytes:
    if not text.startswith(HASHED):
        return digest_of(text.encode())
    value = text.removeprefix(HASHED)
    if not _HEX.fullmatch(value):
        raise ValueError(f"API key {place}: 64 hexadecimal digits must follow {HASHED}")
    return bytes.fromhex(value)
