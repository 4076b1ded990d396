"""The workers as those see them who run the gateway: listed, added, drained, removed.

URLs and ids in, what there is out. An id is what `x-smg-worker` calls the worker.
"""

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from smg.discovery.candidates import Candidate
from smg.discovery.departures import Seat
from smg.discovery.fleet import Fleet
from smg.errors import ConfigError, Conflict, InvalidRequest, NotFound
from smg.storage.base import WorkerStore

log = logging.getLogger(__name__)

Status = Literal["pending", "ready", "not_ready", "failed", "draining"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One worker at this moment."""

    id: str
    url: str
    speaks_http: bool
    models: Sequence[str]
    """What clients call them; none before it has answered."""
    engine: str | None
    status: Status
    load: int
    """Generations this gateway is running on it."""
    error: str | None
    """Why it cannot be used, if it failed."""
    ranks: Sequence["RankState"] = ()
    """Its data-parallel ranks, if each is a worker of its own to policies."""


@dataclass(frozen=True, slots=True)
class RankState:
    """One rank of a worker at this moment."""

    id: str
    url: str
    load: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRules:
    """What the registry may do."""

    drain_s: float
    """How long a worker that is removed has to end what it runs."""
    processes: int = 1
    """Gateways on this port: only one of them would hear of a change."""


class Registry:
    """The workers of a fleet, and those to remember."""

    def __init__(self, fleet: Fleet, rules: RegistryRules, store: WorkerStore | None) -> None:
        """Without a store nothing outlives the process."""
        self._fleet = fleet
        self._rules = rules
        self._store = store
        self._changing = asyncio.Lock()

    def all(self) -> Sequence[WorkerState]:
        """Every worker, in the order they were named."""
        return [self._state(candidate) for candidate in self._fleet.candidates]

    def one(self, worker_id: str) -> WorkerState:
        """The worker of this id.

        Raises:
            NotFound: there is none.
        """
        return self._state(self._find(worker_id))

    async def add(self, url: str) -> WorkerState:
        """Take in a worker, which is asked in the background what it serves.

        Raises:
            InvalidRequest: the URL is wrong, or workers cannot be changed here.
            Conflict: there is a worker at this address.
            StorageError: it could not be remembered, and was not taken in.
        """
        self._check_alone()
        async with self._changing:
            try:
                candidate = await self._fleet.add(url)
            except ConfigError as error:
                raise InvalidRequest(f"{error}.", param="url") from error
            if self._store is not None:
                try:
                    await self._store.add(url)
                except BaseException:  # Cancelled or not: what is not remembered is not there.
                    self._fleet.remove(candidate, 0)
                    raise
        log.info("Worker %s was added over /workers", url)
        return self._state(candidate)

    async def remove(self, worker_id: str) -> WorkerState:
        """Send a worker nothing more, and let it go when it is idle.

        Raises:
            NotFound: there is none of this id.
            InvalidRequest: workers cannot be changed here.
            StorageError: it could not be forgotten, and stays.
        """
        self._check_alone()
        async with self._changing:
            candidate = self._find(worker_id)
            if self._store is not None:
                await self._store.remove(candidate.url)
            self._fleet.remove(candidate, self._rules.drain_s)
        return self._state(candidate)

    def drain(self, worker_id: str, draining: bool) -> WorkerState:
        """Send a worker nothing new, or send to it again.

        Raises:
            NotFound: there is none of this id.
            Conflict: it has not joined yet, or is being removed.
            InvalidRequest: workers cannot be changed here.
        """
        self._check_alone()
        candidate = self._find(worker_id)
        departures = self._fleet.departures
        if departures.is_leaving(candidate.address):
            raise Conflict(f"The worker {worker_id!r} is being removed.")
        seats = departures.seats(candidate.address)
        if not seats:
            raise Conflict(f"The worker {worker_id!r} has not joined yet.")
        for seat in seats:
            seat.worker.is_draining = draining
        return self._state(candidate)

    def _check_alone(self) -> None:
        if self._rules.processes > 1:
            raise InvalidRequest(
                "With --processes above 1 only one process would hear of it: workers cannot be "
                "changed over HTTP.",
                code="several_processes",
            )

    def _find(self, worker_id: str) -> Candidate:
        for candidate in self._fleet.candidates:
            if id_of(candidate) == worker_id:
                return candidate
        raise NotFound(f"No worker with id {worker_id!r}.", code="WORKER_NOT_FOUND")

    def _state(self, candidate: Candidate) -> WorkerState:
        seats = self._fleet.departures.seats(candidate.address)
        infos = [seat.worker.info for seat in seats if seat.worker.info is not None]
        return WorkerState(
            id=id_of(candidate),
            url=candidate.url,
            speaks_http=candidate.speaks_http,
            models=list(dict.fromkeys(seat.model.name for seat in seats)),
            engine=infos[0].engine if infos else None,
            status=self._status(candidate.address, seats),
            load=sum(seat.worker.in_flight for seat in seats),
            error=self._fleet.failure(candidate.address),
            ranks=[
                RankState(f"{id_of(candidate)}@{rank}", f"{candidate.url}@{rank}", worker.in_flight)
                for worker in (seat.worker for seat in seats)
                if (rank := worker.rank) is not None
            ],
        )

    def _status(self, address: str, seats: Sequence[Seat]) -> Status:
        if self._fleet.departures.is_leaving(address):
            return "draining"
        if not seats:
            return "failed" if self._fleet.failure(address) else "pending"
        if any(seat.worker.is_draining for seat in seats):
            return "draining"
        return "ready" if all(seat.worker.is_available for seat in seats) else "not_ready"


def id_of(candidate: Candidate) -> str:
    """The id of a worker: of its address, so that it is the same after a restart."""
    return hashlib.sha256(candidate.address.encode()).hexdigest()[:12]
