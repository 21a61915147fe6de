"""What the methods did for one request: the response's `decoding` object."""

from typing import Any


class Report:
    """Facts by layer, filled in while the request runs and read when it has ended."""

    def __init__(self) -> None:
        self.layers: dict[str, dict[str, Any]] = {}

    def layer(self, name: str) -> dict[str, Any]:
        return self.layers.setdefault(name, {})

    def add_tokens(self, engine: str, count: int) -> None:
        """Count tokens of the answer that `engine` decoded."""
        tokens = self.layer("sequence").setdefault("tokens", {})
        tokens[engine] = tokens.get(engine, 0) + count
