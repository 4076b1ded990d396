"""The workers as those see them who run the gateway: listed, added, changed, drained, removed.

Named workers and ids in, what there is out. An id is what `x-smg-worker` calls the worker.
"""

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from smg.discovery.candidates import Candidate, HttpCandidate, is_http
from smg.discovery.departures import Seat
from smg.discovery.fleet import Fleet
from smg.discovery.named import Description, Named
from smg.errors import ConfigError, Conflict, InvalidRequest, NotFound
from smg.registry.roster import Roster

log = logging.getLogger(__name__)

Status = Literal["pending", "ready", "not_ready", "failed", "draining"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is being done about a worker, or could not be."""

    kind: Literal["AddWorker", "RemoveWorker"]
    status: Literal["processing", "failed"]
    message: str
    since: int
    """In Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to be different about a worker; `None`: that stays."""

    draining: bool | None = None
    labels: Mapping[str, str] | None = None
    priority: int | None = None
    cost: float | None = None
    api_key: str | None = field(default=None, repr=False)

    def of(self, description: Description) -> Description:
        """The description with what is changed in it."""
        names = [entry.name for entry in fields(Description)]
        told = {name: getattr(self, name) for name in names}
        return replace(description, **{n: value for n, value in told.items() if value is not None})


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
    description: Description
    job: Job | None
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

    def __init__(self, fleet: Fleet, rules: RegistryRules, roster: Roster | None) -> None:
        """Without a roster nothing outlives the process."""
        self._fleet = fleet
        self._rules = rules
        self._roster = roster
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

    async def add(self, worker: Named) -> WorkerState:
        """Take in a worker, which is asked in the background what it serves.

        Raises:
            InvalidRequest: the URL is wrong, it has no use for a key, or workers cannot be changed
                here.
            Conflict: there is a worker at this address.
            StorageError: it could not be remembered, and was not taken in.
        """
        self._check_alone()
        async with self._changing:
            try:
                _check_key(worker.api_key, speaks_http=is_http(worker.url))
                candidate = await self._fleet.add(worker)
            except ConfigError as error:
                raise InvalidRequest(f"{error}.", param="url") from error
            if self._roster is not None:
                try:
                    await self._roster.add(worker)
                except BaseException:  # Cancelled or not: what is not remembered is not there.
                    self._fleet.remove(candidate, 0)
                    raise
        log.info("Worker %s was added over /workers", worker.url)
        return self._state(candidate)

    async def replace(self, worker_id: str, worker: Named) -> WorkerState:
        """Say of a worker what is said now, and nothing else; a key that is not said stays.

        Raises:
            NotFound: there is none of this id.
            InvalidRequest: its URL is another one, it has no use for a key, or workers cannot be
                changed here.
            StorageError: it could not be remembered, and nothing has changed.
        """
        candidate = self._find(worker_id)
        if worker.url != candidate.url:
            raise InvalidRequest(
                f"This worker's url is {candidate.url}; remove it and add the other one.",
                param="url",
            )
        said = worker.description
        change = Change(
            labels=said.labels, priority=said.priority, cost=said.cost, api_key=worker.api_key
        )
        return await self.change(worker_id, change)

    async def change(self, worker_id: str, change: Change) -> WorkerState:
        """Change what is said of a worker, or its key, or whether it gets anything new.

        Raises:
            NotFound: there is none of this id.
            Conflict: it should drain, but has not joined yet, or is being removed.
            InvalidRequest: it has no use for a key, or workers cannot be changed here.
            StorageError: it could not be remembered, and nothing has changed.
        """
        self._check_alone()
        async with self._changing:
            candidate = self._find(worker_id)
            _check_key(change.api_key, speaks_http=candidate.speaks_http)
            seats = [] if change.draining is None else self._drainable(candidate)
            description = change.of(candidate.description)
            if self._roster is not None:
                named = Named(url=candidate.url, description=description, api_key=change.api_key)
                await self._roster.change(named)
            candidate.description = description
            if change.api_key is not None and isinstance(candidate, HttpCandidate):
                self._fleet.use_key(candidate, change.api_key)
            for seat in seats:
                seat.worker.is_draining = bool(change.draining)
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
            if self._roster is not None:
                await self._roster.remove(candidate.url)
            self._fleet.remove(candidate, self._rules.drain_s)
        return self._state(candidate)

    def _drainable(self, candidate: Candidate) -> Sequence[Seat]:
        departures = self._fleet.departures
        if departures.is_leaving(candidate.address):
            raise Conflict(f"The worker {id_of(candidate)!r} is being removed.")
        seats = departures.seats(candidate.address)
        if not seats:
            raise Conflict(f"The worker {id_of(candidate)!r} has not joined yet.")
        return seats

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
            description=candidate.description,
            job=self._job(candidate, seats),
            ranks=[
                RankState(f"{id_of(candidate)}@{rank}", f"{candidate.url}@{rank}", worker.in_flight)
                for worker in (seat.worker for seat in seats)
                if (rank := worker.rank) is not None
            ],
        )

    def _job(self, candidate: Candidate, seats: Sequence[Seat]) -> Job | None:
        since, error = candidate.since, self._fleet.failure(candidate.address)
        if self._fleet.departures.is_leaving(candidate.address):
            why = "It gets nothing new, and goes when it is idle."
            return Job(kind="RemoveWorker", status="processing", message=why, since=since)
        if seats:
            return None
        if error is not None:
            return Job(kind="AddWorker", status="failed", message=error, since=since)
        why = "It has not answered yet, and is asked again and again."
        return Job(kind="AddWorker", status="processing", message=why, since=since)

    def _status(self, address: str, seats: Sequence[Seat]) -> Status:
        if self._fleet.departures.is_leaving(address):
            return "draining"
        if not seats:
            return "failed" if self._fleet.failure(address) else "pending"
        if any(seat.worker.is_draining for seat in seats):
            return "draining"
        return "ready" if all(seat.worker.is_available for seat in seats) else "not_ready"


def _check_key(api_key: str | None, *, speaks_http: bool) -> None:
    if api_key is not None and not speaks_http:
        raise InvalidRequest(
            "api_key: only http:// workers are sent one; grpcs:// workers have certificates.",
            param="api_key",
        )


def id_of(candidate: Candidate) -> str:
    """The id of a worker: of its address, so that it is the same after a restart."""
    return hashlib.sha256(candidate.address.encode()).hexdigest()[:12]
