"""How often a generation is tried, and how long is waited in between.

Numbers come in, numbers go out: no worker and no clock is known here.
"""

import random
from dataclasses import dataclass

SHARE = 0.2
"""What part of all generations may be tried again on a worker that has failed them."""
RESERVE = 20.0
"""How many may, before anything is known of how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """When to try again."""

    attempts: int = 5
    """Tries of one generation in all; on another worker at once, on the same after a pause."""
    initial_s: float = 0.05
    longest_s: float = 30.0
    factor: float = 1.5
    jitter: float = 0.2

    def pause(self, number: int, chance: random.Random) -> float:
        """How long to wait before the pause-th time that all workers are tried again."""
        wait_s = min(self.initial_s * self.factor**number, self.longest_s)
        return wait_s * (1 + chance.uniform(-self.jitter, self.jitter))


class Budget:
    """Retries in proportion to the work, so that they never become the work."""

    def __init__(self, share: float = SHARE, reserve: float = RESERVE) -> None:
        self._share = share
        self._reserve = reserve
        self._left = reserve

    def earn(self) -> None:
        """Note a generation."""
        self._left = min(self._reserve, self._left + self._share)

    def spend(self) -> bool:
        """Take one retry; whether there was one."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
