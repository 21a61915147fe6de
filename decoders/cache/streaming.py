"""StreamingLLM: the first tokens and the last ones are kept."""

from typing import ClassVar, Literal

from decoders.cache.compressed import CompressedMethod
from decoders.cache.settings import Settings


class Streaming(CompressedMethod):
    """StreamingLLM: the first `sinks` tokens and the latest ones stay, and what lies between is evicted.

    arXiv 2309.17453, section 3.2; here positions are kept as they were, and the latest tokens are as many as
    the budget allows.
    """

    paper: ClassVar[str | None] = "https://arxiv.org/abs/2309.17453"

    method: Literal["streaming"]

    def settings(self) -> Settings:
        return Settings(**self.shared_settings())
