"""Old responses are forgotten: a store and an age come in, and it is swept ever after.

In small steps with pauses between them, so that whoever answers requests is never kept waiting.
Knows no table, no owner and no HTTP.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from smg.errors import GatewayError
from smg.storage.base import Store

log = logging.getLogger(__name__)

DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How gently the store is swept."""

    first_seconds: float = 60.0
    """A gateway that starts has better things to do."""
    every_seconds: float = 3600.0
    pause_seconds: float = 0.2
    """Between two steps; whoever waits to write has his turn."""
    rows: int = 100
    """Responses that one step forgets."""
    pages: int = 1000
    """Unused pages of a SQLite file that one step returns to the disk."""


class Retention:
    """Forgets responses of a certain age; 0 days keeps everything."""

    def __init__(
        self, store: Store, days: float, clock: Callable[[], float], pace: Pace | None = None
    ) -> None:
        self._store = store
        self._days = days
        self._clock = clock
        self._pace = pace or Pace()
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Sweep in the background, from soon on."""
        if self._days > 0:
            self._watch = asyncio.create_task(self._sweeping(), name="retention")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, after the step that is being done."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch

    async def sweep(self) -> int:
        """Forget all that is too old now; how many rows were changed.

        Raises:
            StorageError: the store does not answer.
        """
        return await forget(self._store, self._clock() - self._days * DAY_SECONDS, self._pace)

    async def _sweeping(self) -> None:
        await asyncio.sleep(self._pace.first_seconds)
        while True:
            try:
                changed = await self.sweep()
            except GatewayError as error:
                log.warning("Forgetting old responses failed: %s", error)
            else:
                log.log(logging.INFO if changed else logging.DEBUG, "Forgot %d old rows", changed)
            await asyncio.sleep(self._pace.every_seconds)


async def forget(store: Store, before: float, pace: Pace) -> int:
    """Forget finished responses made before this time, and return the space they took.

    Returns how many rows were changed.

    Raises:
        StorageError: the store does not answer.
    """
    changed = 0
    while step := await store.responses.purge_expired(int(before), pace.rows):
        changed += step
        await asyncio.sleep(pace.pause_seconds)
    unused, left = math.inf, await store.give_back(pace.pages)
    while 0 < left < unused:  # An older file cannot give any back.
        await asyncio.sleep(pace.pause_seconds)
        unused, left = left, await store.give_back(pace.pages)
    return changed
