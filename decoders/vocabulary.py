"""Whether two models share a tokenizer: by the vocabularies' content, never by name."""

import hashlib
import json
from typing import Any


def fingerprint(tokenizer: Any) -> str:
    """SHA-256 of every (token, id) pair, special and added tokens included.

    Args:
        tokenizer: a Hugging Face tokenizer, or anything with `get_vocab() -> dict[str, int]`.
    """
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0]))
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=True).encode()).hexdigest()
