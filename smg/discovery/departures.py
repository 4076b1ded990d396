"""Workers that are removed while the gateway runs: they get nothing new, and end what they have.

Addresses come in, empty pools go out. It must not know how workers are found.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from smg.directory import ModelDirectory, Served
from smg.workers.pool import Pool
from smg.workers.worker import Worker


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """A worker, or one rank of it, in the pool of a model."""

    model: Served
    worker: Worker


class Departures:
    """Who is leaving. A model whose workers all leave is not served any longer."""

    def __init__(self, models: ModelDirectory, give_up: Callable[[Pool], Awaitable[None]]) -> None:
        """`give_up` closes a pool that nobody is left in."""
        self._models = models
        self._give_up = give_up
        self._seats: dict[str, list[Seat]] = {}

    def is_leaving(self, address: str) -> bool:
        """Whether the worker at this address is being removed."""
        return address in self._seats

    def seats(self, address: str) -> Sequence[Seat]:
        """The pools that a worker is in: one for each of its models, none before it answers."""
        if address in self._seats:
            return self._seats[address]
        return self._found(address)

    def retire(self, address: str) -> None:
        """Give a worker nothing new; again, once it has joined further pools."""
        seats = self._seats.setdefault(address, [])
        known = {seat.worker for seat in seats}
        seats += [seat for seat in self._found(address) if seat.worker not in known]
        for seat in seats:
            seat.worker.is_draining = True
            if all(self.is_leaving(w.engine.address) for w in seat.model.pool.workers):
                self._models.remove(seat.model)

    async def leave(self, address: str, grace_s: float) -> None:
        """Return when a retired worker has ended what it ran, or the time is over."""
        await asyncio.gather(*(self._vacate(seat, grace_s) for seat in self._seats[address]))
        del self._seats[address]

    async def _vacate(self, seat: Seat, grace_s: float) -> None:
        pool = seat.model.pool
        assert isinstance(pool, Pool)  # Nobody leaves a model in two halves.
        await pool.remove(seat.worker, grace_s)
        if not pool.workers:
            await self._give_up(pool)

    def _found(self, address: str) -> list[Seat]:
        return [
            Seat(model, worker)
            for model in self._models.all()
            for worker in model.pool.workers
            if worker.engine.address == address
        ]
