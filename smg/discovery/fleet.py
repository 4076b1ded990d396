"""All workers of the gateway from start to end: asked who they are, put in pools, models loaded.

A worker that does not answer at start, or is added later, is asked in the background, and joins the
pool of its model, or brings a new one, when it does. One that is removed ends what it runs first.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from smg.directory import ModelDirectory, Served
from smg.discovery.candidates import (
    Candidate,
    GrpcCandidate,
    HttpCandidate,
    Known,
    admitted,
    new_candidates,
)
from smg.discovery.departures import Departures
from smg.discovery.groups import Group, check_told, grouped, main_group, read_aliases, settings_of
from smg.discovery.halves import check_engines, is_split, new_halves
from smg.discovery.named import Named
from smg.discovery.policies import read_policies, warn_of_strangers, with_policy
from smg.errors import ConfigError, Conflict, EngineError
from smg.fleet import new_pool, new_worker
from smg.ids import new_id
from smg.settings import Settings, flag_of
from smg.startup import load_model, new_connection, now
from smg.upstream.engine import HttpEngine
from smg.upstream.model import UpstreamModel
from smg.workers.observer import Observer
from smg.workers.pd import PdPool
from smg.workers.pool import Pool
from smg.workers.worker import Worker

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 15.0
WITHOUT_USE = ("model_path", "chat_template", "reasoning_parser", "tool_call_parser")
"""Settings of a model that an OpenAI-compatible worker sees to itself."""


class Fleet:
    """Every worker, and the models they serve."""

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        created_at: int,
        observer: Observer | None = None,
    ) -> None:
        """Call it inside the event loop; the observer is told what the pools do.

        Raises:
            ConfigError: a flag about workers or models is wrong.
        """
        self._settings = settings
        self._policies = read_policies(settings)
        self._created_at = created_at
        self._observer = observer
        self._connection = connection = new_connection(settings)
        self._halves = new_halves(settings, connection) if is_split(settings) else None
        self._candidates: list[Candidate] = []
        self._pools: list[Pool | PdPool] = []
        if self._halves is not None:
            self._pools = [self._halves]
        elif settings.worker_urls or not (settings.admin_key or settings.service_discovery):
            # Else they may all come later.
            self._candidates = new_candidates(settings, connection, environment)
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._failures: dict[str, str] = {}
        self._joining = asyncio.Lock()
        self._main: Group | None = None
        self.models = ModelDirectory((), read_aliases(settings.model_alias))
        self.departures = Departures(self.models, self._give_up)

    async def start(self) -> None:
        """Ask all workers what they serve, and load the models.

        Raises:
            ConfigError: a model cannot be loaded, or it is not known what is served.
        """
        if self._halves is not None:
            await self._start_halves(self._halves)
            return
        if not self._candidates:
            return
        found, late = await self._first_answers()
        if found:
            groups = grouped(found)
            check_told(self._settings, groups)
            self._main = main_group(self._settings, groups)
            for group in groups:
                await self._add(group)
        else:
            late = await self._start_unseen(late)
        if not late:
            self.models.check_aliases()
        warn_of_strangers(self._policies, self.models)
        for candidate in late:
            self._begin_asking(candidate)

    async def close(self) -> None:
        """Stop asking, and give up all connections."""
        tasks = [*self._asking.values(), *self._leaving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(pool.close() for pool in self._pools))
        await asyncio.gather(*(candidate.close() for candidate in self._candidates))

    # ---- at start

    async def _first_answers(self) -> tuple[list[Known], list[Candidate]]:
        """Who answers, and who does not: one answer at least, if one comes in time."""
        settings, found = self._settings, list[Known]()
        late: Sequence[Candidate] = self._candidates
        may_guess = settings.model_path is not None and not any(c.speaks_http for c in late)
        wait_s = 0 if may_guess else settings.worker_startup_timeout_secs
        deadline, pause_s = time.monotonic() + wait_s, FIRST_PAUSE_S
        while True:
            answers = await asyncio.gather(*map(_asked, late))
            found = [known for answer in answers for known in answer or ()]
            late = [c for c, answer in zip(late, answers, strict=True) if answer is None]
            if found or time.monotonic() >= deadline:
                return found, list(late)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _start_halves(self, halves: PdPool) -> None:
        """Serve the model of two halves; those that are down now are probed by their pools."""
        await halves.start()
        settings = self._settings
        wait_s = 0 if settings.model_path else settings.worker_startup_timeout_secs
        deadline = time.monotonic() + wait_s
        # The pools' own tasks probe the workers; this only looks, and only at start.
        while halves.info is None and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(FIRST_PAUSE_S)
        check_engines(halves)
        self.models.add(await load_model(settings, halves, self._created_at, halves.info))
        self.models.check_aliases()

    async def _start_unseen(self, late: list[Candidate]) -> list[Candidate]:
        """Serve the model that the flags name, though no worker is up yet."""
        unseen = [candidate for candidate in late if isinstance(candidate, GrpcCandidate)]
        if self._settings.model_path is None or not unseen:
            raise ConfigError(
                "--worker-urls: no worker answers, so it is not known which model is served; "
                "--model-path names that of grpc:// workers"
            )
        workers = [new_worker(self._settings, candidate.release()) for candidate in unseen]
        pool = await self._new_pool(self._settings, self._settings.model_path, workers)
        self.models.add(await load_model(self._settings, pool, self._created_at, None))
        return [candidate for candidate in late if candidate not in unseen]

    # ---- models

    async def _add(self, group: Group) -> None:
        """Serve one more model."""
        settings = settings_of(self._settings, group, self._main)
        workers = [self._worker(member) for member in group.members]
        pool = await self._new_pool(settings, group.model, workers)
        try:
            self.models.add(await self._model(settings, group, pool))
        except BaseException:  # Cancelling included: nobody else knows this pool.
            await self._give_up(pool)
            raise

    async def _give_up(self, pool: Pool) -> None:
        if pool in self._pools:
            self._pools.remove(pool)
            await pool.close()

    async def _new_pool(self, settings: Settings, model: str, workers: Sequence[Worker]) -> Pool:
        names = (settings.served_model_name, model)
        pool = new_pool(with_policy(settings, self._policies, names), workers, self._observer)
        self._pools.append(pool)
        await pool.start()
        return pool

    def _worker(self, known: Known) -> Worker:
        worker = new_worker(self._settings, known.engine)
        worker.info = known.info
        return worker

    async def _model(self, settings: Settings, group: Group, pool: Pool) -> Served:
        if not group.speaks_http:
            info = group.members[0].info
            return await load_model(settings, pool, self._created_at, info)
        for name in WITHOUT_USE:
            if getattr(settings, name) is not None:
                log.warning(
                    "%s has no use for %s: its worker does that", flag_of(name), group.model
                )
        return UpstreamModel(
            name=settings.served_model_name or group.model,
            pool=pool,
            new_request_id=lambda: new_id("gen"),
            created_at=self._created_at,
        )

    # ---- while it runs

    @property
    def candidates(self) -> Sequence[Candidate]:
        """Every worker URL, in the order they were named; none for a model in two halves."""
        return tuple(self._candidates)

    def failure(self, address: str) -> str | None:
        """Why a worker that answers cannot be used, if that is so."""
        return self._failures.get(address)

    async def add(self, worker: Named) -> Candidate:
        """Take in one more worker; it joins in the background, once it answers.

        Raises:
            ConfigError: the URL is wrong, or the fleet is one model in two halves.
            Conflict: there is a worker at this address.
        """
        candidate = await self._admit(worker)
        self._begin_asking(candidate)
        return candidate

    def use_key(self, candidate: HttpCandidate, api_key: str) -> None:
        """Send a worker another key from now on."""
        candidate.use_key(api_key)
        for seat in self.departures.seats(candidate.address):
            if isinstance(seat.worker.engine, HttpEngine):
                seat.worker.engine.use_key(api_key)

    async def take_back(self, workers: Sequence[Named]) -> None:
        """Take in the workers of an earlier run: now if they answer at once, else when they do."""
        candidates = []
        for worker in workers:
            try:
                candidates.append(await self._admit(worker))
            except Conflict:
                log.debug("Worker %s of an earlier run is also named by a flag", worker.url)
            except ConfigError as error:
                log.warning("Worker %s of an earlier run cannot be used: %s", worker.url, error)
        answers = await asyncio.gather(*map(_asked, candidates))
        for candidate, answer in zip(candidates, answers, strict=True):
            if answer is None:
                self._begin_asking(candidate)
            else:
                await self._let_in(answer)

    def remove(self, candidate: Candidate, grace_s: float) -> None:
        """Send a worker nothing more; it goes when it is idle, or when the time is over."""
        if not self.departures.is_leaving(candidate.address):
            self.departures.retire(candidate.address)
            candidate.since = now()
            leaving = asyncio.create_task(self._leave(candidate, grace_s))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _admit(self, worker: Named) -> Candidate:
        if self._halves is not None:
            raise ConfigError("--prefill, --decode: their workers are as the flags say")
        candidate = admitted(self._settings, self._connection, worker)
        if any(candidate.address == other.address for other in self._candidates):
            await candidate.close()
            raise Conflict(
                f"There is a worker at {worker.url} already.", code="WORKER_ALREADY_EXISTS"
            )
        self._candidates.append(candidate)
        return candidate

    async def _leave(self, candidate: Candidate, grace_s: float) -> None:
        address = candidate.address
        async with self._joining:  # It may be joining just now.
            asking = self._asking.pop(address, None)
            if asking is not None:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            self.departures.retire(address)
        if not await self.departures.leave(address, grace_s):
            return  # It stays.
        await candidate.close()
        self._candidates.remove(candidate)
        self._failures.pop(address, None)
        log.info("Worker %s is removed", candidate.url)

    # ---- in the background

    def _begin_asking(self, candidate: Candidate) -> None:
        self._asking[candidate.address] = asyncio.create_task(self._wait_for(candidate))

    async def _wait_for(self, candidate: Candidate) -> None:
        """Ask until it answers, then let it join."""
        log.warning("Worker %s does not answer; it joins when it does", candidate.url)
        pause_s = FIRST_PAUSE_S
        while (answer := await _asked(candidate)) is None:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        await self._let_in(answer)

    async def _let_in(self, answer: Sequence[Known]) -> None:
        async with AsyncExitStack() as unused:
            for known in answer:
                unused.push_async_callback(known.engine.close)
            # One at a time: two workers may bring the same model.
            async with self._joining:
                unused.pop_all()
                for known in answer:
                    await self._join(known)

    async def _join(self, known: Known) -> None:
        model = known.info.model
        served = next((m for m in self.models.all() if m.info.model == model), None)
        if served is None:
            await self._bring(known)
        elif isinstance(served, UpstreamModel) == known.speaks_http:
            assert isinstance(served.pool, Pool)  # Halves have no late workers.
            served.pool.add(self._worker(known))
            log.info("Worker %s joins model %s", known.engine.address, served.name)
        else:
            self._refuse(known, f"{model} has workers of another kind")
            await known.engine.close()

    async def _bring(self, known: Known) -> None:
        group = Group(known.info.model, known.speaks_http, (known,))
        if self._main is None and not self.models.all():
            self._main = group  # The only model is the one that the flags are about.
        try:
            await self._add(group)
        except (ConfigError, EngineError) as error:  # It may have gone again.
            self._refuse(known, str(error))
        else:
            log.info("Worker %s brings model %s", known.engine.address, known.info.model)

    def _refuse(self, known: Known, why: str) -> None:
        address = known.engine.address
        log.warning("Worker %s cannot be used: %s", address, why)
        self._failures[address] = why


async def _asked(candidate: Candidate) -> Sequence[Known] | None:
    try:
        return await candidate.ask()
    except EngineError as error:
        log.debug("Worker %s: %s", candidate.url, error)
        return None
