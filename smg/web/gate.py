"""How much work is let in at once, and in which order the rest waits.

Requests ask for a place and give it back; who finds none waits in line, and who would wait in vain
is refused at once. Knows neither HTTP nor what the work is.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum

from smg.errors import GatewayError, RateLimited

PATIENCE = 0.5
"""After this part of the longest wait a request comes before all others: none starves."""

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


class Priority(IntEnum):
    """Who is let in first."""

    HIGH = 0
    DEFAULT = 1
    LOW = 2


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

    def take(self) -> float:
        """Take one; else the seconds until there will be one, and 0 if it was taken."""
        if self._rate <= 0:
            return 0.0
        now = self._clock()
        self._left = min(self._size, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0


@dataclass(eq=False, slots=True)
class _Ticket:
    since: float
    called: asyncio.Event


class Gate:
    """A number of places, and a line before them for each priority."""

    def __init__(self, rules: GateRules, clock: Clock = time.monotonic) -> None:
        self.running = 0
        self.refused = 0
        self._rules = rules
        self._clock = clock
        self._bucket = TokenBucket(rules.per_second, clock)
        self._lines: dict[Priority, deque[_Ticket]] = {each: deque() for each in Priority}

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return sum(map(len, self._lines.values()))

    @asynccontextmanager
    async def place(self, priority: Priority = Priority.DEFAULT) -> AsyncGenerator[None, None]:
        """Hold a place for as long as the block lasts, waiting for it if need be.

        Raises:
            Busy: too many came too quickly, too many wait, or the wait was too long.
        """
        wait_s = self._bucket.take()
        if wait_s:
            raise self._refusal("Too many requests a second.", wait_s)
        await self._enter(priority)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, priority: Priority) -> None:
        rules = self._rules
        if not rules.places or (self.running < rules.places and not self.waiting):
            self.running += 1
            return
        if self.waiting >= rules.waiting:
            raise self._refusal("Too many requests are waiting.", 1)
        ticket = _Ticket(self._clock(), asyncio.Event())
        self._lines[priority].append(ticket)
        try:
            async with asyncio.timeout(rules.wait_s):
                await ticket.called.wait()
        except BaseException as error:
            self._give_up(priority, ticket)
            if isinstance(error, TimeoutError):
                told = f"No place became free within {rules.wait_s:g} s."
                raise self._refusal(told, 1) from error
            raise

    def _give_up(self, priority: Priority, ticket: _Ticket) -> None:
        if ticket.called.is_set():
            self._leave()  # It was called in the very moment it gave up.
        else:
            self._lines[priority].remove(ticket)

    def _leave(self) -> None:
        self.running -= 1
        ticket = self._next()
        if ticket is not None:
            self.running += 1  # Its place from now on, also before it wakes up.
            ticket.called.set()

    def _next(self) -> _Ticket | None:
        lines = [line for line in self._lines.values() if line]
        if not lines:
            return None
        oldest = min(lines, key=lambda line: line[0].since)
        has_waited = self._clock() - oldest[0].since >= PATIENCE * self._rules.wait_s
        return (oldest if has_waited else lines[0]).popleft()

    def _refusal(self, message: str, wait_s: float) -> Busy:
        self.refused += 1
        return Busy(message, wait_s)
