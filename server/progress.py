"""Whether an engine makes progress: steps counted as they come, and the time without any."""

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

# Prompt tokens that one step may compute for each further `patience` it is given, by where it runs.
PROMPT_TOKENS = {"gpu": 2048, "cpu": 128}


class Steps(StatLoggerBase):
    """Counts the steps an engine has reported; vLLM reports each, also those that give no token."""

    def __init__(self, vllm_config: Any = None, engine_index: int = 0) -> None:
        self.count = 0

    def record(self, *args: Any, **kwargs: Any) -> None:
        self.count += 1

    def log_engine_initialized(self) -> None:
        pass

    def __call__(self, vllm_config: Any, engine_index: int = 0) -> "Steps":
        """As vLLM's factory of stat loggers: one count for all ranks of an engine."""
        return self


class Pulse:
    """Tells an engine that hangs from one that is idle or has much to do in a step.

    Args:
        patience: seconds without a step, while requests wait, after which the engine hangs. As much again is
            given for each `prompt_tokens` that the step may have to compute.
        longest_look: most seconds that one look may add. Time in which this process itself stood still (a
            suspended machine, a stopped container) is not the engine's.
        prompt_tokens: see `PROMPT_TOKENS`.
    """

    def __init__(self, patience: float, longest_look: float, prompt_tokens: int) -> None:
        self.patience = patience
        self.prompt_tokens = prompt_tokens
        self.longest_look = longest_look
        self.steps = 0
        self.without = 0.0  # seconds that requests have waited since the last step

    def hangs(self, steps: int, requests: int, prompt_tokens: int, since: float) -> bool:
        """Look at the engine once more.

        steps: taken since its start. requests: that it has not finished. prompt_tokens: most that its next
        step computes. since: seconds since the last look.
        """
        if steps != self.steps or not requests:
            self.steps, self.without = steps, 0.0
            return False
        self.without += min(since, self.longest_look)
        return self.without > self.patience * (1 + prompt_tokens / self.prompt_tokens)
