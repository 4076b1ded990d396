"""Workers that are removed while the gateway runs: they get nothing new, and end what they have.

Addresses come in, empty pools go out. It must not know how workers are found.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from smg.directory import ModelDirectory, Served
from smg.workers.pool import Pool
from smg.workers.worker import Worker


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """A worker, or one rank of it, in the pool of a model."""

    model: Served
    worker: Worker


@dataclass(slots=True, eq=False)
class Departure:
    """A worker on its way out."""

    seats: list[Seat] = field(default_factory=list)
    is_waiting: bool = False
    """Whether it only ends what it runs, and may still be kept."""
    is_kept: asyncio.Event = field(default_factory=asyncio.Event)

    async def is_idle(self) -> None:
        """Return when it runs nothing any more."""
        for seat in self.seats:
            health = seat.worker.health
            while health.in_flight:
                await health.became_idle.wait()


class Departures:
    """Who is leaving. A model whose workers all leave is not served any longer."""

    def __init__(self, models: ModelDirectory, give_up: Callable[[Pool], Awaitable[None]]) -> None:
        """`give_up` closes a pool that nobody is left in."""
        self._models = models
        self._give_up = give_up
        self._leaving: dict[str, Departure] = {}

    def is_leaving(self, address: str) -> bool:
        """Whether the worker at this address is being removed."""
        return address in self._leaving

    def seats(self, address: str) -> Sequence[Seat]:
        """The pools that a worker is in: one for each of its models, none before it answers."""
        if address in self._leaving:
            return self._leaving[address].seats
        return self._found(address)

    def retire(self, address: str) -> None:
        """Give a worker nothing new; again, once it has joined further pools."""
        seats = self._leaving.setdefault(address, Departure()).seats
        known = {seat.worker for seat in seats}
        seats += [seat for seat in self._found(address) if seat.worker not in known]
        for seat in seats:
            seat.worker.is_draining = True
            if all(self.is_leaving(w.engine.address) for w in seat.model.pool.workers):
                self._models.remove(seat.model)

    async def leave(self, address: str, grace_s: float) -> bool:
        """Let a retired worker go once it has ended what it ran, or the time is over.

        False if it was kept meanwhile.
        """
        departure = self._leaving[address]
        await _wait(departure, grace_s)
        if departure.is_kept.is_set():
            return False
        await asyncio.gather(*map(self._vacate, departure.seats))
        del self._leaving[address]
        return True

    def keep(self, address: str) -> bool:
        """Use a worker again that was on its way out; False if it is too late."""
        departure = self._leaving.get(address)
        if departure is None or not departure.is_waiting or not departure.seats:
            return False
        models = {seat.model.name: seat.model for seat in departure.seats}
        if any(models.get(other.name, other) is not other for other in self._models.all()):
            return False  # Another worker has brought a model of this name.
        for seat in departure.seats:
            seat.worker.is_draining = False
        for model in models.values():
            if model not in self._models.all():
                self._models.add(model)
        del self._leaving[address]
        departure.is_kept.set()
        return True

    async def _vacate(self, seat: Seat) -> None:
        pool = seat.model.pool
        assert isinstance(pool, Pool)  # Nobody leaves a model in two halves.
        await pool.remove(seat.worker, 0)
        if not pool.workers:
            await self._give_up(pool)

    def _found(self, address: str) -> list[Seat]:
        return [
            Seat(model, worker)
            for model in self._models.all()
            for worker in model.pool.workers
            if worker.engine.address == address
        ]


async def _wait(departure: Departure, grace_s: float) -> None:
    departure.is_waiting = True
    waits = [
        asyncio.create_task(departure.is_idle()),
        asyncio.create_task(departure.is_kept.wait()),
    ]
    try:
        await asyncio.wait(waits, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        departure.is_waiting = False
        for wait in waits:
            wait.cancel()
