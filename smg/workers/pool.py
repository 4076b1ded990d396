"""The workers of one model as one engine: next worker while nothing was said.

In go prompts, out come the chunks of one worker. A worker that cannot be reached is marked
down, and probed in the background until it answers. It must not know what tokens mean.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from smg.engines.base import EngineChunk, EngineInfo, PromptTokens
from smg.errors import EngineError, WorkerOverloaded, WorkerUnavailable
from smg.workers.policies import Policy
from smg.workers.worker import Worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """How often workers are asked for their health, in seconds."""

    interval_s: float = 30.0
    """While a worker is up."""
    first_s: float = 0.5
    """After a probe of a worker that is down; doubled each time."""
    longest_s: float = 15.0
    """The most that doubling leads to."""


class Pool:
    """The workers of one model."""

    def __init__(
        self, workers: Sequence[Worker], policy: Policy, probing: Probing | None = None
    ) -> None:
        self.workers = tuple(workers)
        self._policy = policy
        self._probing = probing or Probing()
        self._watches: list[asyncio.Task[None]] = []

    @property
    def is_ready(self) -> bool:
        """Whether any worker is up."""
        return any(worker.is_up for worker in self.workers)

    @property
    def info(self) -> EngineInfo | None:
        """What the workers serve, as the first that has answered says it."""
        return next((worker.info for worker in self.workers if worker.info is not None), None)

    async def start(self) -> None:
        """Probe every worker once, then go on in the background."""
        await asyncio.gather(*(worker.probe() for worker in self.workers))
        self._watches = [asyncio.create_task(self._watch(worker)) for worker in self.workers]

    async def close(self) -> None:
        """Stop probing and give up all connections."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await asyncio.gather(*(worker.engine.close() for worker in self.workers))

    async def generate(
        self, new_request_id: Callable[[], str], prompt: PromptTokens
    ) -> AsyncGenerator[EngineChunk, None]:
        """Stream one generation, from the first worker that produces a token.

        Each try has a request id of its own. After the first chunk nothing is retried: it has
        been seen.

        Raises:
            WorkerOverloaded: no worker took it, and one at least had no room.
            WorkerUnavailable: no worker could be reached.
            EngineError: as the worker's engine raises it.
        """
        failures: list[EngineError] = []
        for worker in self._candidates(prompt):
            with worker.busy():
                async with aclosing(worker.engine.generate(new_request_id(), prompt)) as chunks:
                    try:
                        first = await anext(chunks)
                    except WorkerUnavailable as error:
                        worker.mark_down(error)
                        failures.append(error)
                        continue
                    except WorkerOverloaded as error:
                        failures.append(error)
                        continue
                    yield first  # From here on there is no second try.
                    async for chunk in chunks:
                        yield chunk
                    return
        raise _no_worker(failures)

    def _candidates(self, prompt: PromptTokens) -> Sequence[Worker]:
        """Those that are up as the policy ranks them, then the others: a mark may be old."""
        ranking = self._policy.rank(prompt, [worker for worker in self.workers if worker.is_up])
        if ranking.workers:
            logger.debug("Worker %s: %s", ranking.workers[0].address, ranking.reason)
        return [*ranking.workers, *(worker for worker in self.workers if not worker.is_up)]

    async def _watch(self, worker: Worker) -> None:
        """Probe a worker for ever: now and then while it is up, more often while it is down."""
        probing = self._probing
        wait_s = probing.interval_s if worker.is_up else probing.first_s
        while True:
            if worker.is_up:
                # A generation that finds it down wakes us.
                with suppress(TimeoutError):
                    await asyncio.wait_for(worker.went_down.wait(), probing.interval_s)
                wait_s = probing.first_s
            else:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, probing.longest_s)
            try:
                await worker.probe()
            except Exception:
                logger.exception("Probing worker %s failed", worker.address)


def _no_worker(failures: Sequence[EngineError]) -> EngineError:
    """One error for all the tries: a client may come again soon if a worker was merely full."""
    if not failures:
        return WorkerUnavailable("This model has no worker")
    overloaded = [error for error in failures if isinstance(error, WorkerOverloaded)]
    kind = WorkerOverloaded if overloaded else WorkerUnavailable
    return kind("; ".join(error.message for error in failures))
