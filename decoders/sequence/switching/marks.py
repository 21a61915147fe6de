"""How a worker tells its scheduler that a token is a segment's last: in the sampled token's own id."""

from typing import TYPE_CHECKING, Any, Final

from decoders.engine_process import CACHE_SCHEDULER, SCHEDULER
from decoders.sequence.switching.rule import Rule

if TYPE_CHECKING:
    from vllm.v1.request import Request

LAST: Final = 1 << 30  # added to an id; vocabularies are smaller, and the sum fits into 32 bits


def reads_marks(scheduler_config: Any) -> bool:
    """Whether marks are understood: by Decant's scheduler, where a step is read before the next begins."""
    ours = scheduler_config.scheduler_cls in (SCHEDULER, CACHE_SCHEDULER)
    return ours and not scheduler_config.async_scheduling


def take_mark(tokens: list[int]) -> bool:
    """Whether the last of a step's tokens is marked; the mark is taken off."""
    if not tokens or tokens[-1] < LAST:
        return False
    tokens[-1] -= LAST
    return True


def end_segment(request: "Request") -> None:
    """End the request as if its reserved token had been sampled next."""
    from vllm.v1.request import RequestStatus

    rule = Rule.from_wire(request.sampling_params.extra_args) if request.sampling_params else None
    assert rule is not None
    request.status = RequestStatus.FINISHED_STOPPED
    request.stop_reason = rule.stop
