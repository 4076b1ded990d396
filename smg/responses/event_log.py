"""Streams that survive the process: frames are stored first, and only then shown to readers.

Many streams share one transaction: while one batch is being written the next collects, so that the
cost of a commit is spread over everything that waits, and a slow disk makes batches larger rather
than queues longer.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from smg.errors import StorageError
from smg.faults import reached
from smg.storage.base import JournalStore
from smg.storage.records import EventBatch, Lease
from smg.web.feed import Feed

log = logging.getLogger(__name__)


class LoggedStream:
    """One stream on its way through the log to its readers."""

    def __init__(self, lease: Lease, feed: Feed, next_sequence: int = 0) -> None:
        self.lease = lease
        self.feed = feed
        self.next_sequence = next_sequence
        self.waiting: list[bytes] = []
        self.error: StorageError | None = None
        """Why frames could not be stored; what waits was not shown to anybody."""
        self.lost = False
        """Whether somebody else works on the response now."""
        self.landed = asyncio.Event()
        """Clear while a batch of it is being written."""
        self.landed.set()

    def taken(self) -> EventBatch:
        """Everything that waits, to be written."""
        batch = EventBatch(self.next_sequence, self.waiting)
        self.next_sequence += len(self.waiting)
        self.waiting = []
        return batch


class EventLog:
    """Writes the frames of all running streams."""

    def __init__(self, journal: JournalStore) -> None:
        self._journal = journal
        self._dirty: dict[str, LoggedStream] = {}
        self._work = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def add(self, stream: LoggedStream, frames: Sequence[bytes]) -> None:
        """Write these frames soon, then show them."""
        if not frames:
            return
        stream.waiting += frames
        self._dirty[stream.lease.response_id] = stream
        self._work.set()
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="event-log")

    async def settled(self, stream: LoggedStream) -> None:
        """Return when nothing of this stream is being written; what waits stays waiting."""
        self._dirty.pop(stream.lease.response_id, None)
        await stream.landed.wait()

    async def close(self) -> None:
        """Stop writing."""
        if self._writer is not None:
            self._writer.cancel()
            with suppress(asyncio.CancelledError):
                await self._writer

    async def _write(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            streams = list(self._dirty.values())
            self._dirty.clear()
            if streams:
                await self._write_batch(streams)

    async def _write_batch(self, streams: Sequence[LoggedStream]) -> None:
        batches = [(stream.lease, stream.taken()) for stream in streams]
        for stream in streams:
            stream.landed.clear()
        reached("events-before")
        try:
            held = await self._journal.append_events(batches)
        except StorageError as error:
            log.exception("Events of %d streams were not stored", len(streams))
            for stream, (_, batch) in zip(streams, batches, strict=True):
                stream.error = error
                stream.waiting[:0] = batch.frames
                stream.next_sequence = batch.first_sequence
                stream.landed.set()
            return
        reached("events-after")
        for stream, (_, batch), ours in zip(streams, batches, held, strict=True):
            stream.lost = not ours
            if ours:
                stream.feed.push(batch.frames)
            stream.landed.set()
