"""Limits: how many may be inside at once, how many wait for that, how many may begin in a second.

A gate counts, and says whether there is room; who stands before which gates, and who is next, is
the line's affair (`line.py`). Knows neither HTTP nor what the work is.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from smg.errors import GatewayError, RateLimited

Clock = Callable[[], float]


class Busy(RateLimited):
    """Raised when there is no place now; says when to come again."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = max(1, math.ceil(retry_after))


class ShuttingDown(GatewayError):
    """Raised when the gateway takes no more work: another one, or the next, will."""

    status = 503
    default_code = "shutting_down"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """How much is let in. 0: no limit."""

    places: int = 0
    """Requests worked on at once."""
    waiting: int = 100
    """Requests that wait for a place."""
    wait_s: float = 60.0
    per_second: float = 0.0
    """Requests begun in a second, on the long run; as many again at once."""


class TokenBucket:
    """So many a second on average."""

    def __init__(self, per_second: float, clock: Clock = time.monotonic) -> None:
        self._rate = per_second
        self._size = max(1.0, per_second)
        self._clock = clock
        self._left = self._size
        self._at = clock()

    def wait_s(self) -> float:
        """The seconds until one can be taken; 0: now."""
        if self._rate <= 0:
            return 0.0
        now = self._clock()
        self._left = min(self._size, self._left + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, 1 - self._left) / self._rate

    def take(self) -> float:
        """Take one; else the seconds until there will be one, and 0 if it was taken."""
        wait_s = self.wait_s()
        if not wait_s:
            self._left -= 1
        return wait_s


class Gate:
    """What one limit is about: all requests, those of one key, or those to one model."""

    def __init__(
        self, rules: GateRules, whose: str = "requests", clock: Clock = time.monotonic
    ) -> None:
        """`whose` names what is limited, to those who are refused."""
        self.rules = rules
        self.running = 0
        self.waiting = 0
        """How many stand in line because of it."""
        self.arriving = 0
        """How many are on their way to it: what they want is still being read."""
        self.refused = 0
        self.bucket = TokenBucket(rules.per_second, clock)
        self._whose = whose

    @property
    def has_room(self) -> bool:
        """Whether one more may be inside."""
        return not self.rules.places or self.running < self.rules.places

    def check_arrival(self) -> None:
        """Refuse at once whom a full line would refuse later.

        Raises:
            Busy: places and line are taken, or will be by those who are on their way.
        """
        rules = self.rules
        ahead = self.running + self.waiting + self.arriving
        if rules.places and ahead >= rules.places + rules.waiting:
            raise self.too_many()

    def too_many(self) -> Busy:
        """The refusal of whom the line has no room for."""
        return self.refusal(f"Too many {self._whose} are running or waiting.", 1)

    def too_late(self) -> Busy:
        """The refusal of who has waited in vain."""
        return self.refusal(
            f"No place for {self._whose} became free within {self.rules.wait_s:g} s.", 1
        )

    def too_quick(self, wait_s: float) -> Busy:
        """The refusal of who comes too soon after others."""
        return self.refusal(f"Too many {self._whose} a second.", wait_s)

    def refusal(self, message: str, wait_s: float) -> Busy:
        """Count a refusal, and make it."""
        self.refused += 1
        return Busy(message, wait_s)
