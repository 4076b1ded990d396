"""One question that is answered at once, to the least busy worker that takes it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from smg.engines.base import Engine
from smg.engines.embedding import Embedding
from smg.engines.remote import RemoteEngine
from smg.errors import EngineError, WorkerOverloaded, WorkerUnavailable
from smg.workers.pd import PdPool
from smg.workers.pool import Pool

Answer = TypeVar("Answer")
AT_ONCE: Final = 32
"""Texts of one request that are worked on together."""


async def ask_one(
    pool: Pool | PdPool, tokens: int, ask: Callable[[Engine], Awaitable[Answer]]
) -> Answer:
    """The answer of the first worker that gives one; each is asked once.

    Raises:
        WorkerUnavailable: none could be reached.
        WorkerOverloaded: none had room.
        EngineError: as the worker's engine raises it.
    """
    failure: EngineError = WorkerUnavailable("This model has no worker that takes requests")
    ready = [worker for worker in pool.workers if worker.is_available]
    for worker in sorted(ready, key=lambda one: one.in_flight):
        if not worker.is_up:
            continue  # Another rank of it has just failed.
        with worker.busy(tokens):
            try:
                return await ask(worker.engine)
            except WorkerUnavailable as error:
                worker.mark_down(error)
                failure = error
            except WorkerOverloaded as error:
                failure = error
    raise failure


async def embed_all(
    pool: Pool | PdPool, texts: Sequence[Sequence[int]], new_request_id: Callable[[], str]
) -> list[Embedding]:
    """A vector for each text, in their order, spread over the workers.

    Raises:
        EngineError: one of them could not be made.
    """
    turns = asyncio.Semaphore(AT_ONCE)

    async def embed(ids: Sequence[int]) -> Embedding:
        async def ask(engine: Engine) -> Embedding:
            assert isinstance(engine, RemoteEngine)  # A model on tokens has no other workers.
            return await engine.embed(new_request_id(), ids)

        async with turns:
            return await ask_one(pool, len(ids), ask)

    tasks = [asyncio.create_task(embed(ids)) for ids in texts]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
