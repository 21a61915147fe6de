"""What the channel does to rows and keeps of requests, without an engine around it."""

import pytest
import torch

from decoders.logits.channel import MOST_REPORTS, Channel, GuidedRow
from decoders.logits.guidance import Guidance

NEVER = float("-inf")


@pytest.mark.parametrize("reported", ["guided", "base"])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_a_token_that_the_base_rules_out_stays_so(reported: str, alpha: float) -> None:
    channel = Channel(("polite",))
    channel.rows = {0: GuidedRow(Guidance({"polite": 1.0}, alpha=alpha, logprobs=reported), [], None)}  # type: ignore[arg-type]
    channel.begin_step(changed=True)
    logits = torch.tensor([[1.0, NEVER, 0.0]])
    channel.fuse(logits, {"polite": torch.tensor([[0.0, 1.0, 2.0]])})
    channel.settle(logits)
    assert torch.equal(logits, torch.tensor([[1.0, NEVER, 2.0]]))


def test_outcomes_of_what_runs_are_kept_longest() -> None:
    channel = Channel(("polite",))
    guidance, answer = Guidance({"polite": 1.0}), [7]
    steps = MOST_REPORTS + 5
    for i in range(steps):
        rows = [GuidedRow(guidance, answer, "runs on"), GuidedRow(guidance, [], f"left without asking {i}")]
        channel.rows = dict(enumerate(rows))
        channel.begin_step(changed=True)
        channel.fuse(torch.zeros(2, 4), {"polite": torch.zeros(2, 4)})
        answer.append(7)
    (kept,) = channel.outcomes.pop("runs on")
    assert kept.summary() == {"tokens": steps, "guided": steps}
    left = range(steps - len(channel.outcomes), steps)
    assert list(channel.outcomes) == [f"left without asking {i}" for i in left]
    assert len(channel.outcomes) == MOST_REPORTS - 1
