"""One admitted request on its way from the route to the engines."""

from dataclasses import dataclass, field

from vllm.sampling_params import SamplingParams

from decoders.errors import Refusal
from decoders.report import Report
from decoders.request import Decoding, DecodingRequest
from server.errors import ApiError
from server.outcome import Outcomes


@dataclass
class Call:
    """What was asked for, and what has been done so far."""

    decoding: Decoding
    report: Report
    outcomes: Outcomes = field(default_factory=Outcomes)

    def check_sampling(self, params: SamplingParams) -> None:
        """Raise ApiError 400 for a sampling parameter that one of the methods cannot honour."""
        try:
            for method in (self.decoding.sequence_method(), *self.decoding.engine_methods()):
                method.check_sampling(params)
        except Refusal as refusal:
            raise ApiError.of(refusal) from None

    @classmethod
    def plain(cls) -> "Call":
        """A call that asks for nothing beyond vLLM's own decoding (beam search makes such calls)."""
        decoding = DecodingRequest()
        return cls(decoding, decoding.new_report())
