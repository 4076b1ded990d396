"""One worker: its engine, and what the gateway knows of it at this moment.

It must not know other workers, nor who chooses among them.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from smg.engines.base import Engine, EngineInfo
from smg.errors import EngineError, WorkerOverloaded

logger = logging.getLogger(__name__)


class Worker:
    """A running engine at one address. It counts as up until something says it is not."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.address = engine.address
        self.is_up = True
        self.in_flight = 0
        """Generations this gateway is running on it."""
        self.info: EngineInfo | None = None
        """What it serves; `None` until it was asked."""
        self.went_down = asyncio.Event()
        """Set while it is down."""

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count one generation for as long as the block lasts."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def probe(self) -> bool:
        """Ask whether it is healthy, and what it serves if that may have changed.

        Returns whether it is up now.
        """
        try:
            if self.info is None or not self.is_up:
                self.info = await self.engine.info()
            await self.engine.check()
        except WorkerOverloaded:
            return self.is_up  # Busy is not sick.
        except EngineError as error:
            self.mark_down(error)
        else:
            self._mark_up()
        return self.is_up

    def mark_down(self, error: EngineError) -> None:
        """Note that it failed. It is probed until it answers again."""
        if self.is_up:
            logger.warning("Worker %s is down: %s", self.address, error.message)
        self.is_up = False
        self.went_down.set()

    def _mark_up(self) -> None:
        if not self.is_up:
            logger.info("Worker %s is up again", self.address)
        self.is_up = True
        self.went_down.clear()
