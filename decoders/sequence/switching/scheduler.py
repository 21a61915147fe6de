"""The half of a scheduler that ends segments."""

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from decoders.sequence.switching.marks import end_segment, take_mark


class MarkedEnds(Scheduler):
    """Ends a request with the token that its worker has marked as the last."""

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        marked = take_mark(new_token_ids)
        tokens, stopped = super()._update_request_with_output(request, new_token_ids, is_stale)
        if marked and not stopped:
            end_segment(request)
            stopped = True
        return tokens, stopped
