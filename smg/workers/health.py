"""Whether one running engine is fit for work: asked now and then, and told what befell it.

Its engine's answers and the outcomes of its generations come in, whether it may be sent more goes
out. All data-parallel ranks of a worker share it, for they are one process.
"""

import asyncio
import logging
from dataclasses import dataclass

from smg.engines.base import Engine, EngineInfo
from smg.errors import EngineError, WorkerOverloaded
from smg.workers.breaker import Breaker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """How many probes in a row change a worker's state."""

    failures: int = 3
    """For a worker that has worked before; one that has not is down after the first."""
    successes: int = 2
    """For a worker that was down."""


class Health:
    """A running engine. It counts as up until something says it is not."""

    def __init__(self, engine: Engine, breaker: Breaker, thresholds: Thresholds) -> None:
        self.engine = engine
        self.breaker = breaker
        self.up = asyncio.Event()
        """Set while it counts as up."""
        self.up.set()
        self.is_draining = False
        """Whether it is to be removed: it gets nothing new."""
        self.in_flight = 0
        """Generations this gateway is running on it, on whichever rank."""
        self.info: EngineInfo | None = None
        """What it serves; `None` until it was asked."""
        self.went_down = asyncio.Event()
        """Set while it is down, a probe has failed, or somebody doubts it."""
        self.became_idle = asyncio.Event()
        """Set when its last generation ends."""
        self._thresholds = thresholds
        self._failures = 0
        self._successes = 0

    @property
    def is_up(self) -> bool:
        """Whether it can be reached, as far as is known."""
        return self.up.is_set()

    @is_up.setter
    def is_up(self, is_up: bool) -> None:
        if is_up:
            self.up.set()
        else:
            self.up.clear()

    @property
    def is_available(self) -> bool:
        """Whether it should be sent a generation now."""
        return self.is_up and not self.is_draining and self.breaker.allows

    @property
    def is_certain(self) -> bool:
        """Whether the last probes agree: no closer look is needed."""
        return self.is_up and not self._failures

    def began(self) -> None:
        """Note that a generation is sent to it."""
        self.in_flight += 1
        self.became_idle.clear()

    def ended(self) -> None:
        """Note that one is over."""
        self.in_flight -= 1
        if not self.in_flight:
            self.became_idle.set()

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
            self._failed_probe(error)
        else:
            self._passed_probe()
        return self.is_up

    def doubt(self) -> None:
        """Have it probed now: something about it looks wrong."""
        self.went_down.set()

    def mark_down(self, error: EngineError) -> None:
        """Note that it cannot be reached. It is probed until it answers again."""
        if self.is_up:
            logger.warning("Worker %s is down: %s", self.engine.address, error.message)
        self.is_up = False
        self._successes = 0
        self.went_down.set()

    def _failed_probe(self, error: EngineError) -> None:
        self._failures += 1
        self._successes = 0
        self.went_down.set()
        if self.info is None or self._failures >= self._thresholds.failures:
            self.mark_down(error)

    def _passed_probe(self) -> None:
        self._failures = 0
        self._successes += 1
        if not self.is_up and self._successes < self._thresholds.successes:
            return
        if not self.is_up:
            logger.info("Worker %s is up again", self.engine.address)
        self.is_up = True
        self.went_down.clear()
