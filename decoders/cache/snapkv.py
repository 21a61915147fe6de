"""SnapKV: what the last queries attend to is kept."""

from typing import ClassVar, Literal

from pydantic import Field

from decoders.cache.compressed import CompressedMethod, Pool
from decoders.cache.settings import Settings


class SnapKV(CompressedMethod):
    """SnapKV: keys that the last queries attend to stay, and all others are evicted.

    arXiv 2404.14469. Per layer and key head, the attention mass of the last `window` queries is smoothed by a
    maximum over `pool` neighbours, and the tokens of the greatest mass are kept, besides the first `sinks`
    and the `recent` last ones.
    """

    paper: ClassVar[str | None] = "https://arxiv.org/abs/2404.14469"

    method: Literal["snapkv"]
    window: int = Field(
        default=32, ge=1, le=1024, description="How many of the last queries give the attention mass."
    )
    pool: Pool = Field(default=7, description="Neighbours, an odd number, over which the mass is smoothed.")

    def settings(self) -> Settings:
        return Settings(**self.shared_settings(), window=self.window, pool=self.pool)
