"""What the methods did for one request: the response's `decoding` object."""

from collections import Counter
from typing import Any, Literal


class Report:
    """Facts by layer, filled in while the request runs and read when it has ended.

    `spent` counts tokens where an answer costs more than its own: those of all candidates that were sampled,
    and those computed to score candidates.
    """

    def __init__(self) -> None:
        self.layers: dict[str, dict[str, Any]] = {}
        self.spent: Counter[Literal["sampled", "scored"]] = Counter()

    def layer(self, name: str) -> dict[str, Any]:
        return self.layers.setdefault(name, {})

    def add_tokens(self, engine: str, count: int) -> None:
        """Count tokens of the answer that `engine` decoded."""
        tokens = self.layer("sequence").setdefault("tokens", {})
        tokens[engine] = tokens.get(engine, 0) + count
