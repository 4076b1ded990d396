"""One worker over time: probed, asked for its load, listened to.

In go questions at their intervals, out goes what the worker and its ranks are known to be. What
policies make of it is theirs.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from smg.engines.kv import TellsOfCache
from smg.workers.listening import Listener
from smg.workers.policies.base import Policy
from smg.workers.worker import Worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """How often workers are asked for their health, in seconds."""

    interval_s: float = 30.0
    """While a worker is up."""
    first_s: float = 0.5
    """After a probe that failed; doubled each time while the worker is down."""
    longest_s: float = 15.0
    """The most that doubling leads to."""
    load_interval_s: float = 10.0
    """Between two questions for a worker's load, where the policy uses it."""


class Watch:
    """Keeps what is known of one worker current, for as long as it is in a pool."""

    def __init__(
        self, worker: Worker, probing: Probing, policy: Policy, answered: Callable[[], None]
    ) -> None:
        """`answered` is called when the worker may have said something new of itself."""
        self._worker = worker
        self._probing = probing
        self._policy = policy
        self._answered = answered

    async def run(self) -> None:
        """Never return."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._probe_for_ever())
            if self._policy.uses_loads:
                group.create_task(self._ask_loads())
            engine, knowledge = self._worker.engine, self._policy.knowledge
            if knowledge is not None and isinstance(engine, TellsOfCache):
                group.create_task(Listener(self._worker, engine, knowledge).run())

    async def _probe_for_ever(self) -> None:
        """Probe now and then while it is up, more often while it is down."""
        probing, health = self._probing, self._worker.health
        wait_s = probing.first_s
        while True:
            if health.is_certain:
                # A generation that finds it down wakes us.
                # Python 3.11's wait_for would lose a cancellation that comes with the event.
                with suppress(TimeoutError):
                    async with asyncio.timeout(probing.interval_s):
                        await health.went_down.wait()
                if health.is_certain:
                    health.went_down.clear()  # It was a doubt, and the next probe will tell.
                wait_s = probing.first_s
            else:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, probing.longest_s)
            if await self._asked(health.probe()) and not health.is_up:
                wait_s = probing.first_s  # It answers: soon it may count as up.
            self._note_answer()

    def _note_answer(self) -> None:
        if not self._worker.is_up:
            self._worker.hear_load(None)  # What it last said is of another time.
        self._answered()

    async def _ask_loads(self) -> None:
        while True:
            if self._worker.is_up:
                await self._asked(self._worker.ask_load())
            await asyncio.sleep(self._probing.load_interval_s)

    async def _asked(self, question: Awaitable[bool]) -> bool:
        try:
            return await question
        except Exception:  # A bug must not end the watching.
            logger.exception("Probing worker %s failed", self._worker.address)
            return False
