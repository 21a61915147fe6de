"""One admitted request on its way from the route to the engines."""

from dataclasses import dataclass, field

from vllm.sampling_params import SamplingParams

from decoders.errors import Refusal
from decoders.method import ChoosingMethod
from decoders.report import Report
from decoders.request import Decoding, DecodingRequest
from decoders.sequence.candidates.phrasing import Phrasing
from server.errors import ApiError
from server.grammars.guard import Guard
from server.outcome import Outcomes


@dataclass
class Account:
    """Tokens of one request, over all its prompts: as given, as found in the prefix cache, as delivered."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0


@dataclass
class Call:
    """What was asked for, and what has been done so far."""

    decoding: Decoding
    report: Report
    outcomes: Outcomes = field(default_factory=Outcomes)
    phrasing: Phrasing | None = None
    candidate_tokens: int | None = None  # most tokens all candidates together may have
    guard: Guard | None = None  # bounds what an answer may be constrained by
    is_plain: bool = False  # made by `plain`, not by a route
    unbooked: int = 0  # prompt tokens that its API key has still to pay for
    account: Account = field(default_factory=Account)
    lost: str | None = None  # the engine that died or hung while, or before, it worked on this

    def methods(self) -> list[str]:
        """The names of the methods that decode it, by layer."""
        return [one.method for one in (self.decoding.sequence_method(), *self.decoding.engine_methods())]

    def computed(self) -> int:
        """Tokens that models ran for it so far, all candidates, scores and repetitions included."""
        spent, sequence = self.report.spent, self.report.layers.get("sequence", {})
        decoded = spent["sampled"] or self.account.completion
        again = int(sequence.get("recomputed_tokens", 0))
        return self.account.prompt - self.account.cached + decoded + again + spent["scored"]

    def check_sampling(self, params: SamplingParams) -> None:
        """Raise ApiError 400 for a sampling parameter that one of the methods cannot honour."""
        try:
            for method in (self.decoding.sequence_method(), *self.decoding.engine_methods()):
                method.check_sampling(params)
            self._check_fan_out(params)
        except Refusal as refusal:
            raise ApiError.of(refusal) from None

    def _check_fan_out(self, params: SamplingParams) -> None:
        method, most = self.decoding.sequence_method(), self.candidate_tokens
        if not isinstance(method, ChoosingMethod) or most is None:
            return
        tokens = method.most_candidates() * params.max_tokens
        if tokens > most:
            raise Refusal(
                f"{method.most_candidates()} candidates of up to {params.max_tokens} tokens are {tokens}; "
                f"this server allows {most} in one request. Lower max_tokens or the candidates.",
                "max_tokens",
            )

    @classmethod
    def plain(cls) -> "Call":
        """A call that asks for nothing beyond vLLM's own decoding (beam search makes such calls)."""
        decoding = DecodingRequest()
        return cls(decoding, decoding.new_report(), is_plain=True)
