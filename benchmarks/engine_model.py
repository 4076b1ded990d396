"""What a made-up engine takes for a prompt and an answer: reading, writing, and a finite cache.

Prompts are read one after another at so many uncached tokens a second; a generation then gets its
tokens in steps that take longer the more there are; who finds no room in the KV cache waits for
it, and all behind him. Token ids come in, new tokens come out in their time: that of the event
loop, so that a simulation may jump (`fleet.py`) and a real server waits (`stand_ins.py`). It must
not know gateways, policies or protocols.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.kv_blocks import BLOCK, Change, KvBlocks, block_hashes, blocks_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast an engine is, and how much it holds."""

    read_per_second: float = 8000.0
    """Uncached prompt tokens."""
    step_s: float = 0.012
    """A decode step of one generation ..."""
    step_more_s: float = 0.0006
    """... and of each further one."""
    kv_tokens: int = 120_000
    per_message: int = 8
    """Decode steps between two messages."""

    def slower(self, times: float) -> "Pace":
        """The same engine, where every second takes so many."""
        return replace(
            self,
            read_per_second=self.read_per_second / times,
            step_s=self.step_s * times,
            step_more_s=self.step_more_s * times,
        )


@dataclass(slots=True)
class Counts:
    """What an engine has done so far."""

    generations: int = 0
    read: int = 0
    """Prompt tokens."""
    found: int = 0
    """Those of them that were in the cache."""
    most_running: int = 0
    meant_s: float = 0.0
    """How long reading and writing should have taken ..."""
    took_s: float = 0.0
    """... and took: timers are late where others use the cores."""


Tell = Callable[[Change, Sequence[int]], None]
"""Hears how a cache has changed, and of which text the change speaks."""


def _tell_nobody(change: Change, text: Sequence[int]) -> None:
    del change, text


class ModelEngine:
    """One engine. `tell` hears of each change of its cache."""

    def __init__(self, pace: Pace, tell: Tell = _tell_nobody) -> None:
        self.counts = Counts()
        self.running = self.waiting = 0
        self.unread = 0
        """Prompt tokens of those that wait which were not in the cache when they came."""
        self.cache = KvBlocks(pace.kv_tokens)
        self._pace = pace
        self._tell = tell
        self._reading = asyncio.Lock()
        self._room = asyncio.Event()

    def can_hold(self, ids: Sequence[int], answer: Sequence[int]) -> bool:
        """Whether this would ever find room."""
        return blocks_of(len(ids) + len(answer)) <= self.cache.capacity

    async def generate(
        self, ids: Sequence[int], answer: Sequence[int]
    ) -> AsyncGenerator[tuple[Sequence[int], int], None]:
        """The answer in pieces, as they are written; with each how much of the prompt was found."""
        stay = _Stay(ids, answer)
        found = await self._read(stay)
        self.running += 1
        self.counts.most_running = max(self.counts.most_running, self.running)
        try:
            yield answer[:1], found
            for start in range(1, len(answer), self._pace.per_message):
                piece = answer[start : start + self._pace.per_message]
                await self._spend(len(piece) * self._step_s())
                if start + len(piece) == len(answer):
                    stay.is_whole = True
                yield piece, found
        finally:
            self.running -= 1
            self._leave(stay)

    async def _spend(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.sleep(seconds)
        self.counts.meant_s += seconds
        self.counts.took_s += loop.time() - begun

    def _step_s(self) -> float:
        return self._pace.step_s + self._pace.step_more_s * self.running

    async def _read(self, stay: "_Stay") -> int:
        """Wait for the prompt's turn and for room, and read it; what was found of it."""
        unread = len(stay.ids) - BLOCK * self.cache.known(stay.hashes)
        self.waiting += 1
        self.unread += unread
        try:
            async with self._reading:
                while not self.cache.has_room(stay.hashes, stay.nameless):
                    self._room.clear()
                    await self._room.wait()
                length = len(stay.ids)
                # The last token is always computed: its successor is what was asked for.
                found = BLOCK * min(self.cache.known(stay.hashes), (length - 1) // BLOCK)
                self._count(length, found)
                # Told when it is let in, as vLLM does; who asks before it is read waits behind it.
                self._tell(self.cache.hold(stay.hashes, stay.nameless), stay.ids)
                try:
                    await self._spend((length - found) / self._pace.read_per_second)
                except asyncio.CancelledError:
                    self._leave(stay)
                    raise
                return found
        finally:
            self.waiting -= 1
            self.unread -= unread

    def _leave(self, stay: "_Stay") -> None:
        text = [*stay.ids, *stay.answer] if stay.is_whole else stay.ids
        written = block_hashes(text)[len(stay.hashes) :]
        self._tell(self.cache.let_go(stay.hashes, stay.nameless, written), text)
        self._room.set()

    def _count(self, read: int, found: int) -> None:
        self.counts.generations += 1
        self.counts.read += read
        self.counts.found += found


class _Stay:
    """What a generation takes of the cache while it is there."""

    def __init__(self, ids: Sequence[int], answer: Sequence[int]) -> None:
        self.ids, self.answer = ids, answer
        self.hashes = block_hashes(ids)
        self.nameless = blocks_of(len(ids) + len(answer)) - len(self.hashes)
        self.is_whole = False
        """Whether the answer was written to its end: then it is known, too."""
