"""The prefix caches of a scripted engine, one for each rank, and who hears what they go through.

Prompts come in, `KvEventBatch` messages go out to every subscriber, as vLLM's servicers publish
them: the Python one tells what changes from now on, the Rust one first what is there. Tests may
hold them back, lose some, or lose all.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

from smg.engines._generated import common_pb2 as pb
from smg.testing.generation import Servicer
from smg.testing.options import EngineOptions
from smg.testing.prefixes import Block, Meeting, PrefixCache

Queue = asyncio.Queue[pb.KvEventBatch | None]
LoadOf = Callable[[int], pb.EngineLoad]


class EventsLost(Exception):
    """Raised when a stream of events cannot go on: what was told may be wrong."""


class KvCaches:
    """What one engine has cached, rank by rank."""

    def __init__(self, options: EngineOptions, load_of: LoadOf) -> None:
        """`load_of` gives a rank's load, which goes out with each batch."""
        self._options = options
        self._load_of = load_of
        seed = random.getrandbits(32)  # No two engines need to name a block alike.
        self._caches = [
            PrefixCache(options.block_size, options.cache_blocks, seed)
            for _ in range(options.ranks)
        ]
        self._numbers = [0] * options.ranks
        self._event_id = 0
        self._listeners: set[Queue] = set()
        self._held: list[pb.KvEventBatch] | None = None
        self._changed = asyncio.Condition()

    # ---- what happens

    def meet(self, ids: Sequence[int], rank: int) -> int:
        """Read a prompt; how many leading tokens were cached."""
        meeting = self._caches[rank].meet(ids)
        events = list(self._told(meeting))
        if events:
            self._publish(rank, events)
        return meeting.cached

    def flush(self) -> None:
        """Forget everything, and say so."""
        for rank, cache in enumerate(self._caches):
            cache.clear()
            self._publish(rank, [self._event(cleared=pb.KvCacheCleared())])

    # ---- what tests do to it

    def hold(self) -> None:
        """Tell nothing until `release`."""
        self._held = self._held or []

    def release(self) -> None:
        """Tell what was held back."""
        held, self._held = self._held or [], None
        for batch in held:
            self._send(batch)

    def skip(self) -> None:
        """Count on without telling anything: the next batch comes after a gap."""
        self._numbers = [number + 1 for number in self._numbers]

    def lose(self) -> None:
        """End every stream with DATA_LOSS."""
        for queue in self._listeners:
            queue.put_nowait(None)

    async def listeners(self, count: int) -> None:
        """Wait until so many listen."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._listeners) == count)

    # ---- who listens

    async def stream(self) -> AsyncGenerator[pb.KvEventBatch, None]:
        """What a new subscriber hears.

        Raises:
            EventsLost: somebody said so.
        """
        queue: Queue = asyncio.Queue()
        for first in self._first():
            queue.put_nowait(first)
        await self._join(queue, self._listeners.add)
        try:
            while (batch := await queue.get()) is not None:
                yield batch
            raise EventsLost
        finally:
            await self._join(queue, self._listeners.discard)

    async def _join(self, queue: Queue, change: Callable[[Queue], None]) -> None:
        change(queue)
        async with self._changed:
            self._changed.notify_all()

    def _first(self) -> Iterator[pb.KvEventBatch]:
        """A load that belongs to no batch; and from the Rust servicer all that is there."""
        for rank, cache in enumerate(self._caches):
            load = self._load_of(rank)
            load.load_only = True
            yield pb.KvEventBatch(dp_rank=rank, sequence_number=0, load=load)
            blocks = list(cache.blocks())
            if self._options.servicer is Servicer.RUST and blocks:
                yield self._picture(rank, blocks)

    def _picture(self, rank: int, blocks: Sequence[Block]) -> pb.KvEventBatch:
        stored = [pb.KvCacheEvent(stored=self._stored([block])) for block in blocks]
        return pb.KvEventBatch(
            dp_rank=rank,
            sequence_number=self._numbers[rank] - 1,
            events=[pb.KvCacheEvent(cleared=pb.KvCacheCleared()), *stored],
            snapshot=pb.KvSnapshotChunk(index=0, count=1, blocks=len(blocks)),
        )

    def _publish(self, rank: int, events: Sequence[pb.KvCacheEvent]) -> None:
        batch = pb.KvEventBatch(
            dp_rank=rank,
            sequence_number=self._numbers[rank],
            events=events,
            load=self._load_of(rank),
        )
        self._numbers[rank] += 1
        if self._held is not None:
            self._held.append(batch)
        else:
            self._send(batch)

    def _send(self, batch: pb.KvEventBatch) -> None:
        for queue in self._listeners:
            queue.put_nowait(batch)

    def _told(self, meeting: Meeting) -> Iterator[pb.KvCacheEvent]:
        if meeting.stored:
            yield self._event(stored=self._stored(meeting.stored))
        if meeting.removed:
            yield self._event(removed=pb.KvBlocksRemoved(block_hashes=meeting.removed))

    def _stored(self, blocks: Sequence[Block]) -> pb.KvBlocksStored:
        size = self._options.block_size
        return pb.KvBlocksStored(
            blocks=[
                pb.KvBlock(block_hash=block.name, token_ids=block.tokens, block_size=size)
                for block in blocks
            ],
            parent_block_hash=blocks[0].parent,
            tier=pb.KV_CACHE_TIER_DEVICE,
            medium="GPU",
        )

    def _event(self, **said: Any) -> pb.KvCacheEvent:
        self._event_id += 1
        return pb.KvCacheEvent(event_id=self._event_id, **said)
