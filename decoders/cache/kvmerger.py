"""KVMerger: similar neighbours in the cache become one."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from decoders.cache.compressed import Adaptive, CompressedMethod, Pool
from decoders.cache.settings import Settings


class KVMerger(CompressedMethod):
    """KVMerger: runs of similar neighbouring keys are merged into their weighted means, and blocks fall free.

    arXiv 2407.08454. Per layer and key head, adjacent keys are linked by cosine similarity; the first `sinks`
    tokens, the `recent` last ones and the `heavy` hitters stay alone. The most similar links are taken until
    exactly the budget is left (ours: a paged cache needs whole blocks, the paper takes cosines over 0.75). In
    a run, token i weighs exp(-||k_pivot - k_i||^2 / (2 sigma^2)), eq. 4 to 6. A prompt is merged once it is
    complete; with `decode` the answer is merged too (ours).
    """

    paper: ClassVar[str | None] = "https://arxiv.org/abs/2407.08454"

    method: Literal["kvmerger"]
    heavy: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Share of a region's tokens that stay alone since the last queries attend to them most; "
        "at most half as many as there are slots.",
    )
    pool: Pool = Field(
        default=5,
        description="Neighbours, an odd number, over which the mass is smoothed to find heavy ones (ours, "
        "after SnapKV); 1 takes each token's own.",
    )
    window: int = Field(
        default=32, ge=1, le=1024, description="How many of the last queries give the attention mass."
    )
    sigma: Adaptive | Annotated[float, Field(gt=0, le=1e6)] = Field(
        default="adaptive",
        description="Width of the weights in units of the keys' distance; adaptive: the run's mean distance "
        "to its pivot over the square root of 2 (ours).",
    )

    mass: bool = Field(
        default=False,
        description="Let a slot that stands for n tokens have the attention of n: log n on its logit.",
    )

    def settings(self) -> Settings:
        sigma = None if self.sigma == "adaptive" else self.sigma
        return Settings(
            **self.shared_settings(),
            heavy=self.heavy,
            pool=self.pool,
            window=self.window,
            sigma=sigma,
            mass=self.mass,
        )
