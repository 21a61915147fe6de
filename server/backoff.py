"""How often, and after which wait, an engine is started again."""

import random
import time
from collections import deque
from collections.abc import Callable


class Restarts:
    """At most `most` starts in any `window` seconds, each after a longer wait than the one before.

    The k-th start within the window waits between half and all of min(2^(k-1), 30) seconds, by chance, so
    that servers that fell together do not rise together.

    Args:
        most: starts within the window; 0 for none at all.
        window: seconds.
        now: the clock, monotonic, in seconds.
        chance: a number in [0, 1).
    """

    FIRST = 1.0  # seconds
    LONGEST = 30.0

    def __init__(
        self,
        most: int,
        window: float,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.most = most
        self.window = window
        self.now = now
        self.chance = chance
        self.begun: deque[float] = deque()

    def next(self) -> float | None:
        """Take one start: the seconds to wait before it, or None if there is none left."""
        while self.begun and self.begun[0] <= self.now() - self.window:
            self.begun.popleft()
        if len(self.begun) >= self.most:
            return None
        longest = min(self.FIRST * 2 ** len(self.begun), self.LONGEST)
        self.begun.append(self.now())
        return longest * (0.5 + 0.5 * self.chance())
