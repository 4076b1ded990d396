"""Following a response that may run here, elsewhere, or not any more."""

import asyncio
from collections.abc import AsyncGenerator

from smg.errors import InvalidRequest
from smg.responses.runs import Runs
from smg.storage.base import Store
from smg.storage.records import UNFINISHED, ResponseRecord

POLL_SECONDS = 0.25
"""How often the database is asked for news of a response that another process works on."""


async def events_of(
    store: Store, runs: Runs, response_id: str, owner: str, after: int
) -> AsyncGenerator[bytes, None]:
    """The frames of a response's stream above `after`: stored ones, then live ones.

    Raises:
        NotFound: there is no such response.
        InvalidRequest: it has no stream, or no event of that number.
    """
    record = await store.responses.get(response_id, owner)
    first = await store.journal.events(response_id, owner, after=-1, limit=1)
    if not first and record.status not in UNFINISHED:
        raise InvalidRequest(
            "This response was not created with stream or background, so it has no events.",
            param="stream",
        )
    if after >= 0 and not await store.journal.events(response_id, owner, after - 1, limit=1):
        raise InvalidRequest(
            f"Invalid 'starting_after': the stream has no event {after} yet.",
            param="starting_after",
            code="invalid_value",
        )
    return _frames(store, runs, response_id, owner, after)


async def _frames(
    store: Store, runs: Runs, response_id: str, owner: str, after: int
) -> AsyncGenerator[bytes, None]:
    position = after
    while True:
        finished = (await store.responses.get(response_id, owner)).status not in UNFINISHED
        while batch := await store.journal.events(response_id, owner, after=position):
            position = batch[-1][0]
            yield b"".join(frame for _, frame in batch)
        live = runs.find(response_id, owner)
        if live is not None and position >= live.feed.first - 1:
            async for frames in live.feed.read(position):
                yield frames
            return
        if finished:
            return
        await asyncio.sleep(POLL_SECONDS)


async def finished_record(store: Store, runs: Runs, response_id: str, owner: str) -> ResponseRecord:
    """The record of a response once it has ended, wherever it runs.

    Raises:
        NotFound: there is no such response.
    """
    while True:
        live = runs.find(response_id, owner)
        if live is not None:
            await live.feed.wait()
        record = await store.responses.get(response_id, owner)
        if record.status not in UNFINISHED:
            return record
        await asyncio.sleep(POLL_SECONDS)
