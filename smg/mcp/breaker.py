"""Leaves a server alone that has only failed: who asks meanwhile is refused at once.

Closed: everybody passes. Open, after so many failures in a row: nobody, for a while. Half open: one
passes, and what comes of it decides. Outcomes come in; knows nothing of servers, and waits for
nothing.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from smg.mcp.spec import BreakerLimits


class Tripped(Exception):
    """Raised when nobody may pass; says for how long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not asked for {seconds:.0f} s")
        self.seconds = seconds


@dataclass(slots=True)
class Attempt:
    """Somebody who passed; he says what came of it, or nothing if he cannot tell."""

    succeeded: bool | None = None


class Breaker:
    """The state of one server."""

    def __init__(self, limits: BreakerLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._failures = 0
        self._opens_at = 0.0
        self._trying = False

    @property
    def state(self) -> str:
        """Who may pass now: everybody (closed), nobody (open), one (half_open)."""
        if self._failures < self._limits.failures:
            return "closed"
        return "open" if self._clock() < self._opens_at else "half_open"

    @contextmanager
    def attempt(self) -> Generator[Attempt, None, None]:
        """Pass, and tell what came of it.

        Raises:
            Tripped: nobody may pass now, or one tries already.
        """
        state = self.state
        if state == "open" or (state == "half_open" and self._trying):
            raise Tripped(max(1.0, self._opens_at - self._clock()))
        attempt = Attempt()
        self._trying = is_trial = state == "half_open"
        try:
            yield attempt
        finally:
            # Who passed before the failures may end after: the one that tries now is not he.
            self._trying = self._trying and not is_trial
            self._count(attempt)

    def revive(self) -> None:
        """Let one pass now: there is reason to hope."""
        self._opens_at = self._clock()

    def _count(self, attempt: Attempt) -> None:
        if attempt.succeeded:
            self._failures = 0
        elif attempt.succeeded is False:
            self._failures += 1
            self._opens_at = self._clock() + self._limits.pause_s
