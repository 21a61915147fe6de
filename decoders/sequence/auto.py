"""Choosing between plain, speculative and entropy-adaptive decoding for each request."""

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from decoders.deployment import Deployment
from decoders.errors import Refusal
from decoders.method import Chunk, Circumstances, Job, SequenceMethod
from decoders.report import Report
from decoders.sequence.ead import EntropyAdaptive
from decoders.sequence.plain import Plain
from decoders.sequence.speculative import Speculative

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient


class Auto(SequenceMethod):
    """Chooses plain, speculative or entropy-adaptive decoding by load, prompt length and quality (ours).

    The policy, in this order:

    1. `ead`, if it is given, its measured `ead_quality` is at least `quality`, no more than `ead_load` other
       requests run, the prompt has no more than `ead_prompt_tokens` tokens, and the request asks for
       nothing that EAD cannot honour. Under load the engines' batches are split in two and EAD gains less
       or loses; and both models read the prompt.
    2. `speculative`, if an engine speculates. It has the model's own distribution, and its governor sees to
       it that it does not lose.
    3. `plain`.

    The report says what was chosen and why.
    """

    method: Literal["auto"]
    quality: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Least share of the large model's quality to accept; at 1 EAD is chosen only if it was "
        "measured to lose nothing.",
    )
    ead: EntropyAdaptive | None = Field(
        default=None, description="The entropy-adaptive decoding that may be chosen, as in `sequence`."
    )
    ead_quality: float | None = Field(
        default=None,
        gt=0,
        description="Its quality over the large model's, as measured by `decant calibrate ead`.",
    )
    ead_load: int = Field(default=1, ge=0, description="Most other requests that may run when EAD is chosen.")
    ead_prompt_tokens: int = Field(
        default=2048, ge=1, description="Longest prompt, in tokens, for which EAD is chosen."
    )

    def check_deployment(self, deployment: Deployment) -> None:
        if self.ead is None:
            if self.ead_quality is not None:
                raise Refusal(
                    "ead_quality says how good `ead` is; give `ead` too.", "decoding.sequence.ead_quality"
                )
            return
        if self.ead_quality is None:
            raise Refusal(
                "`ead` needs ead_quality, the quality it was measured to have.",
                "decoding.sequence.ead_quality",
            )
        if reason := EntropyAdaptive.unavailable(deployment):
            raise Refusal(f"This server does not offer 'ead': {reason}.", "decoding.sequence.ead")
        try:
            self.ead.check_deployment(deployment)
        except Refusal as refusal:
            inner = (refusal.param or "").removeprefix("decoding.sequence.")
            raise Refusal(refusal.message, f"decoding.sequence.ead.{inner}") from None

    def divides(self) -> bool:
        return self.ead is not None

    def engines(self, deployment: Deployment) -> list[str]:
        names = {self._otherwise(deployment)[0].direct(deployment): None}
        if self.ead is not None:
            names |= dict.fromkeys(self.ead.engines(deployment))
        return [name for name in names if name is not None]

    def resolve(self, circumstances: Circumstances, report: Report) -> SequenceMethod:
        """The method that runs the request; it and the reason go into the report."""
        deployment = circumstances.deployment
        against = self._against_ead(circumstances)
        if self.ead is not None and against is None:
            chosen: SequenceMethod = self.ead
            reason = (
                f"quality {self.ead_quality:g} of {self.quality:g} wanted, {circumstances.running} other "
                f"requests of at most {self.ead_load}, {circumstances.prompt_tokens} prompt tokens of "
                f"at most {self.ead_prompt_tokens}"
            )
        else:
            chosen, other = self._otherwise(deployment)
            reason = f"{other}; not ead: {against}"
        layer = report.layer(self.layer)
        layer["chosen"] = chosen.model_dump(mode="json", exclude_none=True)
        layer["reason"] = reason
        return chosen

    def _against_ead(self, circumstances: Circumstances) -> str | None:
        """Why EAD is not chosen, in words; None if it is."""
        if self.ead is None or self.ead_quality is None:
            return "it is not given"
        if self.ead_quality < self.quality:
            return f"its quality is {self.ead_quality:g}, and {self.quality:g} is wanted"
        if circumstances.running > self.ead_load:
            return f"{circumstances.running} other requests run, and at most {self.ead_load} may"
        if circumstances.prompt_tokens > self.ead_prompt_tokens:
            tokens = circumstances.prompt_tokens
            return f"the prompt has {tokens} tokens, and at most {self.ead_prompt_tokens} may be"
        try:
            self.ead.check_sampling(circumstances.params)
        except Refusal as refusal:
            return refusal.message.removesuffix(".")
        return None

    def _otherwise(self, deployment: Deployment) -> tuple[SequenceMethod, str]:
        if Speculative.unavailable(deployment) is None:
            return Speculative(method="speculative"), "an engine speculates"
        return Plain(method="plain"), "no engine speculates"

    def generate(self, job: Job, engines: "Mapping[str, EngineClient]") -> AsyncGenerator[Chunk, None]:
        raise AssertionError("the method that was chosen generates")
