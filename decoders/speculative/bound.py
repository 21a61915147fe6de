"""AdaEDL: when to stop drafting (arXiv 2410.18351)."""

import math

from torch import Tensor

from kernels import ops

# How `stop` is moved: weights of the past in the acceptance and in `stop`, and the step. They are those of
# Draft & Verify (arXiv 2309.08168, section 3.3), whose rule the paper takes over.
PAST_ACCEPTANCE, PAST_STOP, STEP = 0.5, 0.9, 0.01
HIGHEST = 0.95  # above it no draft would be made, and so none seen to be accepted


class StopRule:
    """Ends a draft where 1 - sqrt(gamma H), a lower bound of the next token's acceptance, falls under `stop`.

    H is the entropy of the draft model's distribution in nats. It is known before the token is drawn, so that
    whether a token is drafted does not depend on which one it is: rejection sampling stays exact.

    Args:
        gamma: factor of the entropy.
        stop: the bound under which a draft ends, to begin with.
        target_acceptance: share of drafted tokens to be accepted; None leaves `stop` where it is.
    """

    def __init__(self, gamma: float, stop: float, target_acceptance: float | None) -> None:
        self.gamma, self.stop, self.target = gamma, stop, target_acceptance
        self.acceptance = target_acceptance

    def goes_on(self, logits: Tensor) -> Tensor:
        """Which rows draft their next token: bool `[rows]`, from the draft's `[rows, vocab]` logits."""
        nats = ops.entropy(logits) * math.log(2.0)
        return 1.0 - (self.gamma * nats).sqrt() >= self.stop

    def observe(self, drafted: int, accepted: int) -> None:
        """Move `stop` by what was accepted of the tokens drafted in one step.

        A step that drafted nothing moves it down (ours): else it could stay where nothing is ever drafted.
        """
        if self.target is None or self.acceptance is None:
            return
        seen = accepted / drafted if drafted else 1.0
        self.acceptance = PAST_ACCEPTANCE * self.acceptance + (1 - PAST_ACCEPTANCE) * seen
        moved = self.stop + (STEP if self.acceptance < self.target else -STEP)
        self.stop = min(max(PAST_STOP * self.stop + (1 - PAST_STOP) * moved, 0.0), HIGHEST)
