"""A worker that tells of its KV cache is listened to for as long as it is here.

What it tells is passed on in its order. Of a hole in it, a lost stream or a restart nothing can be
repaired: then nothing is known of the worker, and it is asked anew from the beginning.
"""

import asyncio
import logging
from contextlib import aclosing
from typing import Final

from smg.engines.kv import KvBatch, NoKvEvents, TellsOfCache
from smg.errors import EngineError, WorkerUnavailable
from smg.workers.policies.blocks import Place
from smg.workers.policies.knowledge import Knowledge
from smg.workers.worker import Worker, ranks_of

logger = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 30.0


class EventsLost(EngineError):
    """Raised when a worker's events have a hole."""


class Cursor:
    """How far each rank has been heard."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def admits(self, batch: KvBatch) -> bool:
        """Whether this batch tells something new, which is then heard.

        Raises:
            EventsLost: something was told before it that was not heard.
        """
        if batch.is_load_only:
            return False
        last = self._last.get(batch.rank)
        if last is not None and not batch.begins_anew:
            if batch.sequence <= last:
                return False
            if batch.sequence > last + 1:
                raise EventsLost(
                    f"rank {batch.rank} told of {last}, then of {batch.sequence}: some are lost"
                )
        self._last[batch.rank] = batch.sequence
        return True


class Listener:
    """Hears one worker out."""

    def __init__(self, worker: Worker, engine: TellsOfCache, knowledge: Knowledge) -> None:
        self._worker = worker
        self._engine = engine
        self._knowledge = knowledge
        self._pause_s = FIRST_PAUSE_S

    async def run(self) -> None:
        """Never return: listen, and after each loss anew."""
        clock, health = asyncio.get_running_loop().time, self._worker.health
        while True:
            if not health.is_up:
                await health.up.wait()
                self._pause_s = FIRST_PAUSE_S
            begun = clock()
            await self._listen_until_lost()
            self._knowledge.forget(self._address)
            if clock() - begun >= LONGEST_PAUSE_S:
                self._pause_s = FIRST_PAUSE_S
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def _listen_until_lost(self) -> None:
        try:
            await self._listen()
            logger.debug("Worker %s has ended its cache events", self._address)
        except NoKvEvents as error:
            logger.info("Worker %s does not tell of its cache: %s", self._address, error)
            await self._worker.health.went_down.wait()  # It may come back as another.
        except EngineError as error:
            logger.debug("Worker %s: its cache events are lost: %s", self._address, error)
            if isinstance(error, WorkerUnavailable):
                self._worker.health.doubt()  # Nobody else may notice so soon.
        except Exception:  # A bug must not end the listening.
            logger.exception("Listening to worker %s failed", self._address)

    @property
    def _address(self) -> str:
        return self._worker.engine.address

    async def _listen(self) -> None:
        cursor, is_first = Cursor(), True
        self._suppose()
        async with aclosing(self._engine.kv_events()) as batches:
            async for batch in batches:
                if batch.load is not None:
                    self._worker.hear_rank_load(batch.rank, batch.load)
                if not cursor.admits(batch):
                    continue
                if is_first:
                    logger.info("Worker %s tells of its KV cache", self._address)
                    is_first = False
                await self._hear(batch)

    async def _hear(self, batch: KvBatch) -> None:
        place = Place(self._address, batch.rank)
        for event in batch.events:
            self._knowledge.hear(place, event)
            await asyncio.sleep(0)  # A picture of all that is cached may be very long.

    def _suppose(self) -> None:
        """Take blocks to be as large as the worker says, until it tells of one."""
        info = self._worker.info
        size = int(info.details.get("block_size", 0)) if info else 0
        for rank in range(ranks_of(info)):
            self._knowledge.listen(Place(self._address, rank), size)
