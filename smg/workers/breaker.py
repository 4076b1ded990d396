"""One worker's circuit breaker: after many failures it is left alone, then tried one at a time.

Outcomes of generations come in, out comes whether the next may be sent. It must not know what a
failure is, nor what is sent instead.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

Clock = Callable[[], float]

PARTS: Final = 12
"""The window moves on in so many steps: outcomes are counted, not kept."""


class BreakerState(IntEnum):
    """Whether a worker is sent generations; the numbers are those of the metric."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRules:
    """When a breaker opens and closes."""

    failures: int = 10
    """So many within the window open it, if they are at least half of all outcomes."""
    successes: int = 3
    """So many trials in a row close it again."""
    open_s: float = 60.0
    """How long nothing is sent."""
    window_s: float = 120.0


@dataclass(slots=True)
class _Part:
    """The outcomes of one step of the window."""

    begun: float
    failures: int = 0
    successes: int = 0


class Breaker:
    """Closed: all may pass. Open: none. Half open: one trial at a time."""

    def __init__(self, rules: BreakerRules | None = None, clock: Clock = time.monotonic) -> None:
        self.rules = rules or BreakerRules()
        self._clock = clock
        self._parts: deque[_Part] = deque(maxlen=PARTS)
        self._opened_at: float | None = None
        self._trials_passed = 0
        self._trial_runs = False
        self._was_tried = False
        self.changes = dict.fromkeys(BreakerState, 0)
        """How often it came into each state."""

    @property
    def state(self) -> BreakerState:
        """The state at this moment."""
        if self._opened_at is None:
            return BreakerState.CLOSED
        is_over = self._clock() - self._opened_at >= self.rules.open_s
        return BreakerState.HALF_OPEN if is_over else BreakerState.OPEN

    @property
    def allows(self) -> bool:
        """Whether a generation may be sent now."""
        state = self.state
        return state is BreakerState.CLOSED or (
            state is BreakerState.HALF_OPEN and not self._trial_runs
        )

    def begin(self) -> bool:
        """Note that a generation is sent; whether it is a trial, to be named when it ends."""
        if self.state is not BreakerState.HALF_OPEN or self._trial_runs:
            return False
        self._trial_runs = True
        self.changes[BreakerState.HALF_OPEN] += not self._was_tried
        self._was_tried = True
        return True

    def succeed(self, *, trial: bool) -> None:
        """Note that a generation went well."""
        if trial:
            self._trial_runs = False
            self._trials_passed += 1
            if self._trials_passed >= self.rules.successes:
                self._opened_at = None
                self.changes[BreakerState.CLOSED] += 1
                self._parts.clear()
        elif self._opened_at is None:
            self._part().successes += 1

    def fail(self, *, trial: bool) -> None:
        """Note that a generation failed by the worker's fault."""
        if trial:
            self._open()
        elif self._opened_at is None:
            self._part().failures += 1
            if self._is_too_much():
                self._open()

    def let_go(self, *, trial: bool) -> None:
        """Note that a generation ended without telling anything of the worker."""
        if trial:
            self._trial_runs = False

    def _open(self) -> None:
        self._opened_at = self._clock()
        self._was_tried = False
        self.changes[BreakerState.OPEN] += 1
        self._trials_passed = 0
        self._trial_runs = False

    def _part(self) -> _Part:
        now, length = self._clock(), self.rules.window_s / PARTS
        if not self._parts or now - self._parts[-1].begun >= length:
            self._parts.append(_Part(now))
        return self._parts[-1]

    def _is_too_much(self) -> bool:
        since = self._clock() - self.rules.window_s
        recent = [part for part in self._parts if part.begun > since]
        failures = sum(part.failures for part in recent)
        # Ten failures among thousands of answers are no sick worker.
        enough = failures >= self.rules.failures
        return enough and failures >= sum(part.successes for part in recent)
