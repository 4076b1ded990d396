"""Who is let in next: everybody waits in one line for room at all of his gates at once.

Nobody holds a place at one gate while he waits at another, so none waits behind somebody who needs
what he does not. Foreground comes by priority, and then by age; who has waited long comes first.
Background work has been promised and waits without end: it comes last, but for every fourth place.
Knows neither HTTP nor what the work is.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from smg.web.gate import Clock, Gate, ShuttingDown

PATIENCE = 0.5
"""After this part of the longest wait a request comes before all others: none starves."""
BACKGROUND_EVERY = 4
"""Of so many places that become free one is for background work, if any waits for it."""

Gates = tuple[Gate, ...]


class Priority(IntEnum):
    """Who is let in first."""

    HIGH = 0
    DEFAULT = 1
    LOW = 2
    BACKGROUND = 3
    """Nobody asks for it by name: it is what responses in the background have."""


Entered = Callable[[Priority, float], None]
"""Told how long somebody has waited."""


class Place:
    """A place at some gates, for all who hold it; the last to leave frees it."""

    __slots__ = ("_gates", "_holders", "_line")

    def __init__(self, line: "Line", gates: Gates) -> None:
        self._line = line
        self._gates = gates
        self._holders = 1

    def hold(self) -> "Place":
        """Count one more holder, who has to leave in his turn."""
        self._holders += 1
        return self

    def leave(self) -> None:
        """Count one holder less."""
        self._holders -= 1
        if not self._holders:
            self._line.free(self._gates)


@dataclass(eq=False, slots=True)
class _Ticket:
    priority: Priority
    gates: Gates
    full: Gate
    """The first of them that had no room."""
    since: float
    patience_s: float
    called: "asyncio.Future[None]"


class Line:
    """One line before all gates."""

    def __init__(self, told: Entered, clock: Clock = time.monotonic) -> None:
        self._told = told
        self._clock = clock
        # One queue for each class and combination of gates: who is first in one of them can enter,
        # or nobody of it can.
        self._queues: dict[tuple[Priority, Gates], deque[_Ticket]] = {}
        self._places_given = 0
        self._is_closed = False

    def waiting(self, *, background: bool) -> int:
        """How many stand in line."""
        return sum(
            len(queue)
            for (priority, _), queue in self._queues.items()
            if (priority is Priority.BACKGROUND) == background
        )

    def begin(self, gates: Gates) -> None:
        """Count somebody who begins now, if he is not too quick.

        Raises:
            ShuttingDown: nobody is let in any more.
            Busy: too many have come too quickly. Nothing is counted then.
        """
        self._check_open()
        for gate in gates:
            if wait_s := gate.bucket.wait_s():
                raise gate.too_quick(wait_s)
        for gate in gates:
            gate.bucket.take()

    async def enter(self, gates: Gates, priority: Priority = Priority.DEFAULT) -> Place:
        """A place at all of these gates, now or after a wait.

        Raises:
            ShuttingDown: nobody is let in any more.
            Busy: too many came too quickly, too many wait, or the wait was too long.
        """
        self.begin(gates)
        full = _full(gates)
        if full is None:
            self._told(priority, 0.0)
            return self._taken(gates)
        rules = full.rules
        if full.waiting >= rules.waiting:
            raise full.too_many()
        ticket = self._queue(gates, full, priority, PATIENCE * rules.wait_s)
        try:
            async with asyncio.timeout(rules.wait_s):
                return await self._called(ticket)
        except TimeoutError as error:
            raise full.too_late() from error

    async def enter_at_last(self, gates: Gates) -> Place:
        """A place at all of these gates for what was promised, however long that takes.

        Raises:
            ShuttingDown: nobody is let in any more.
        """
        self._check_open()
        full = _full(gates)
        if full is None:
            self._told(Priority.BACKGROUND, 0.0)
            return self._taken(gates)
        return await self._called(self._queue(gates, full, Priority.BACKGROUND, math.inf))

    def free(self, gates: Gates) -> None:
        """Give a place back, and let in who can enter now."""
        for gate in gates:
            gate.running -= 1
        while (ticket := self._next()) is not None:
            self._take_out(ticket)
            for gate in ticket.gates:
                gate.running += 1  # His place from now on, also before he wakes up.
            self._places_given += 1
            self._told(ticket.priority, self._clock() - ticket.since)
            ticket.called.set_result(None)

    def close(self) -> None:
        """Let nobody in any more, and send away all who wait."""
        self._is_closed = True
        for ticket in [ticket for queue in self._queues.values() for ticket in queue]:
            self._take_out(ticket)
            ticket.called.set_exception(_shutting_down())

    def _check_open(self) -> None:
        if self._is_closed:
            raise _shutting_down()

    def _taken(self, gates: Gates) -> Place:
        for gate in gates:
            gate.running += 1
        return Place(self, gates)

    def _queue(self, gates: Gates, full: Gate, priority: Priority, patience_s: float) -> _Ticket:
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = _Ticket(priority, gates, full, self._clock(), patience_s, called)
        self._queues.setdefault((priority, gates), deque()).append(ticket)
        full.waiting += priority is not Priority.BACKGROUND
        return ticket

    async def _called(self, ticket: _Ticket) -> Place:
        try:
            # Shielded: a future that was cancelled could not be called any more.
            await asyncio.shield(ticket.called)
        except asyncio.CancelledError:
            if not ticket.called.done():
                self._take_out(ticket)
            elif ticket.called.exception() is None:
                self.free(ticket.gates)  # He was called in the very moment he gave up.
            raise
        return Place(self, ticket.gates)

    def _take_out(self, ticket: _Ticket) -> None:
        key = (ticket.priority, ticket.gates)
        self._queues[key].remove(ticket)
        if not self._queues[key]:
            del self._queues[key]
        ticket.full.waiting -= ticket.priority is not Priority.BACKGROUND

    def _next(self) -> _Ticket | None:
        heads = [queue[0] for queue in self._queues.values() if _full(queue[0].gates) is None]
        return min(heads, key=self._rank, default=None)

    def _rank(self, ticket: _Ticket) -> tuple[int, float]:
        if ticket.priority is Priority.BACKGROUND:
            is_its_turn = self._places_given % BACKGROUND_EVERY == BACKGROUND_EVERY - 1
            return (-2 if is_its_turn else ticket.priority, ticket.since)
        has_waited = self._clock() - ticket.since >= ticket.patience_s
        return (-1 if has_waited else ticket.priority, ticket.since)


def _full(gates: Sequence[Gate]) -> Gate | None:
    """The first gate without room."""
    return next((gate for gate in gates if not gate.has_room), None)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The gateway is shutting down.")
