"""The workers of one model as one engine: next worker while nothing was said.

In go prompts, out come the chunks of one worker. A worker that cannot be reached is marked
down, and probed in the background until it answers. It must not know what tokens mean.
"""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Container, Sequence
from contextlib import aclosing, suppress

from smg.engines.base import EngineChunk, EngineInfo, PromptTokens
from smg.errors import EngineError
from smg.workers.attempts import Attempts, Place
from smg.workers.health import Health
from smg.workers.observer import NoObserver, Observer
from smg.workers.policies.base import Policy, Ranking
from smg.workers.retries import Budget, Retries
from smg.workers.watch import Probing, Watch
from smg.workers.worker import Visit, Worker

logger = logging.getLogger(__name__)

MAX_TURNS = 20_000
"""Turns whose worker is remembered: more than run at once, for ended ones are not told."""

LETTERS_A_TOKEN = 4
STAYS = "the turn's worker"


class Pool:
    """The workers of one model."""

    def __init__(
        self,
        workers: Sequence[Worker],
        policy: Policy,
        probing: Probing | None = None,
        *,
        retries: Retries | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.workers = tuple(part for worker in workers for part in worker.parts())
        self._policy = policy
        self._probing = probing or Probing()
        self._retries = retries or Retries()
        self._budget = Budget()
        self._observer = observer or NoObserver()
        self._chance = random.Random()
        self._turns: OrderedDict[str, Place] = OrderedDict()
        self._watched = {worker.health: worker for worker in workers}
        """Engines, and the worker that stands for all of each."""
        self._watches: dict[Health, asyncio.Task[None]] = {}

    @property
    def is_ready(self) -> bool:
        """Whether any worker would take a generation."""
        return any(worker.is_available for worker in self.workers)

    @property
    def info(self) -> EngineInfo | None:
        """What the workers serve, as the first that has answered says it."""
        return next((worker.info for worker in self.workers if worker.info is not None), None)

    @property
    def _model(self) -> str:
        return self.info.model if self.info else ""

    def worker_of(self, turn_id: str) -> Worker | None:
        """The worker that a turn's last generation was sent to."""
        place = self._turns.get(turn_id)
        return place.worker if place else None

    def plan(self, prompt: PromptTokens) -> Place | None:
        """Where a generation will be tried first, and why: it is kept to if that is possible."""
        ranking = self._rank(prompt)
        if not ranking.workers:
            return None
        place = Place(ranking.workers[0], ranking.reason)
        self._keep(prompt, place)
        return place

    async def start(self) -> None:
        """Probe every worker once, then go on in the background."""
        workers = list(self._watched.values())
        await asyncio.gather(*(worker.probe() for worker in workers))
        for worker in workers:
            self._divide(worker)
            self._begin_watch(worker)

    async def close(self) -> None:
        """Stop probing and give up all connections."""
        watches = list(self._watches.values())
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        await asyncio.gather(*(health.engine.close() for health in self._watched))

    def add(self, worker: Worker) -> None:
        """Take in one more worker; it is down until it has answered a probe."""
        worker.is_up = False
        self._watched[worker.health] = worker
        self.workers = (*self.workers, *worker.parts())
        self._begin_watch(worker)

    async def remove(self, worker: Worker, grace_s: float) -> None:
        """Send a worker nothing more, give what it runs time to end, and let it go.

        A rank goes with all others of its worker.
        """
        health = worker.health
        health.is_draining = True
        deadline = time.monotonic() + grace_s
        while health.in_flight and time.monotonic() < deadline:
            with suppress(TimeoutError):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await health.became_idle.wait()
        if self._watched.pop(health, None) is None:
            return  # It went with another rank.
        self._replace(health, ())
        watch = self._watches.pop(health, None)
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        await health.engine.close()

    async def generate(
        self, new_request_id: Callable[[], str], prompt: PromptTokens
    ) -> AsyncGenerator[EngineChunk, None]:
        """Stream one generation, from the first worker that produces a token.

        Each try has a request id of its own. After the first chunk nothing is retried: it has
        been seen.

        Raises:
            WorkerOverloaded: no worker took it, and one at least had no room.
            WorkerUnavailable: no worker could be reached.
            WorkerTimeout: the workers that could be reached said nothing in time.
            EngineError: as the worker's engine raises it.
        """
        asked_at = time.monotonic()
        attempts = Attempts(self._retries, self._budget, lambda tried: self._rank(prompt, tried))
        self._budget.earn()
        while (place := await self._next_place(attempts)) is not None:
            self._note(place, prompt)
            worker = place.worker
            with worker.busy(_weight(prompt)) as visit:
                async with aclosing(worker.generate(new_request_id(), prompt)) as chunks:
                    first = await self._first(attempts, visit, chunks)
                    if first is None:
                        continue
                    self._observer.first_token(worker, time.monotonic() - asked_at)
                    first_at, is_reading = time.monotonic(), False
                    try:
                        visit.hear(first)
                        yield first  # From here on there is no second try.
                        is_reading = True
                        async for chunk in chunks:
                            visit.hear(chunk)
                            is_reading = False
                            yield chunk
                            is_reading = True
                    except EngineError as error:
                        # It may also be thrown in by whoever reads: not the worker's doing.
                        if is_reading:
                            self._failed(visit, error)
                        raise
                    finally:  # Readers may leave with the last chunk, or before it.
                        self._observer.finished(worker, time.monotonic() - first_at, visit)
                    return
        raise self._given_up(attempts)

    async def _first(
        self, attempts: Attempts, visit: Visit, chunks: AsyncGenerator[EngineChunk, None]
    ) -> EngineChunk | None:
        """The first chunk; `None` if the worker failed, and another may do better."""
        try:
            with self._observer.trying(visit.worker):
                return await anext(chunks)
        except EngineError as error:
            self._failed(visit, error)
            attempts.failed(visit.worker, error)
            return None

    def _given_up(self, attempts: Attempts) -> EngineError:
        error = attempts.error()
        self._observer.gave_up(self._model, error)
        return error

    def _failed(self, visit: Visit, error: EngineError) -> None:
        visit.fail(error)
        self._observer.failed(visit.worker, error)

    async def _next_place(self, attempts: Attempts) -> Place | None:
        """Where to try next, if need be after a pause; `None`: nowhere."""
        place = attempts.next_place()
        if place is None and attempts.may_pause():
            pause_s = self._retries.pause(attempts.pauses - 1, self._chance)
            self._observer.retried(self._model, attempts.last or attempts.error())
            await asyncio.sleep(pause_s)
            place = attempts.next_place()
        return place

    def _rank(self, prompt: PromptTokens, tried: Container[Worker] = ()) -> Ranking:
        """The turn's worker, or those that are available as the policy ranks them.

        Then the others, because what was noted of them may be old.
        """
        home = self._turns.get(prompt.turn_id or "")
        if home is not None and home.worker.is_available and home.worker not in tried:
            return Ranking((home.worker,), home.reason)
        ranking = self._policy.rank(prompt, [w for w in self.workers if w.is_available])
        rest = [
            worker
            for worker in self.workers
            if not worker.is_up and not worker.is_draining and worker.breaker.allows
        ]
        why = ranking.reason if ranking.workers else "no worker is up"
        return Ranking((*ranking.workers, *rest), why)

    def _note(self, place: Place, prompt: PromptTokens) -> None:
        """Remember and tell where a generation goes."""
        worker = place.worker
        logger.debug("Worker %s: %s", worker.address, place.reason)
        self._policy.placed(prompt, worker)
        self._observer.placed(worker, place.reason)
        # Its next generation goes there because this one did, whatever the reason now is.
        self._keep(prompt, Place(worker, STAYS))

    def _keep(self, prompt: PromptTokens, place: Place) -> None:
        if prompt.turn_id is None:
            return
        self._turns[prompt.turn_id] = place
        self._turns.move_to_end(prompt.turn_id)
        if len(self._turns) > MAX_TURNS:
            self._turns.popitem(last=False)

    # ---- who is here

    def _begin_watch(self, worker: Worker) -> None:
        watch = Watch(worker, self._probing, self._policy, lambda: self._divide(worker))
        self._watches[worker.health] = asyncio.create_task(watch.run())

    def _divide(self, worker: Worker) -> None:
        """Put a worker's ranks in its place, if it has just told of them."""
        parts = worker.parts()
        if parts != tuple(part for part in self.workers if part.health is worker.health):
            self._replace(worker.health, parts)

    def _replace(self, health: Health, parts: Sequence[Worker]) -> None:
        """Let these stand for an engine; what stood for it before is forgotten."""
        gone = {worker for worker in self.workers if worker.health is health}
        rest = [worker for worker in self.workers if worker not in gone]
        at = next(n for n, worker in enumerate((*self.workers, None)) if worker not in rest)
        self.workers = (*rest[:at], *parts, *rest[at:])
        for worker in gone:
            self._policy.removed(worker)
        for turn_id in [key for key, place in self._turns.items() if place.worker in gone]:
            del self._turns[turn_id]


def _weight(prompt: PromptTokens) -> int:
    """A prompt's tokens; about so many where only the worker can count them."""
    return len(prompt.ids) or len(prompt.text) // LETTERS_A_TOKEN
