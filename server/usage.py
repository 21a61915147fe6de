"""What a response says of its cost, where an answer costs more than its own tokens."""

from collections.abc import Callable
from typing import Any

from decoders.method import ChoosingMethod
from decoders.report import Report
from server.call import Call

Event = dict[str, Any]


def with_spent(usage: dict[str, Any], report: Report) -> dict[str, Any]:
    """A `usage` object that counts every token computed.

    completion_tokens are those of all candidates, as with OpenAI's `best_of`. scoring_tokens are those that
    were run through the model to score candidates. total_tokens is the sum of these and prompt_tokens.
    """
    sampled, scored = report.spent["sampled"], report.spent["scored"]
    total = usage["prompt_tokens"] + sampled + scored
    spent = {**usage, "completion_tokens": sampled, "total_tokens": total}
    return {**spent, "scoring_tokens": scored} if scored else spent


def amendment(call: Call) -> Callable[[Event], Event] | None:
    """What is to be done to a stream's last event: the report put on it, its usage made whole."""
    chooses = isinstance(call.decoding.sequence_method(), ChoosingMethod)
    if not call.decoding.report and not chooses:
        return None

    def amended(event: Event) -> Event:
        if call.decoding.report:
            event["decoding"] = call.report.layers
        if chooses and event.get("usage"):
            event["usage"] = with_spent(event["usage"], call.report)
        return event

    return amended
