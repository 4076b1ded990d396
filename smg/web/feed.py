"""The frames of one stream, and everybody who reads them.

A frame's place is its sequence number, so that a second reader, or one that lost its connection,
starts anywhere. Readers never hold up the writer: one that is slow finds more frames waiting and
gets them joined into one write; what waits is bounded by the length of the stream itself.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing


class Feed:
    """A growing list of frames that can be followed."""

    def __init__(self, abandoned: Callable[[], object], first: int = 0) -> None:
        """`abandoned` is called when the last reader leaves before the end.

        `first` is the sequence number of the first frame: earlier ones are elsewhere.
        """
        self._abandoned = abandoned
        self._first = first
        self._frames: list[bytes] = []
        self._readers = 0
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def first(self) -> int:
        """The sequence number of the first frame here."""
        return self._first

    @property
    def frames(self) -> Sequence[bytes]:
        """All frames so far."""
        return self._frames

    def push(self, frames: Sequence[bytes]) -> None:
        """Let readers have more frames."""
        if frames:
            self._frames += frames
            self._changed.set()

    def close(self) -> None:
        """No more frames will come."""
        self._closed = True
        self._changed.set()

    async def wait(self) -> None:
        """Return when the stream has ended; counts as reading it."""
        self._readers += 1
        try:
            while not self._closed:
                await self._next_change()
        finally:
            self._leave()

    async def read(self, after: int = -1) -> AsyncGenerator[bytes, None]:
        """What `follow` gives, each batch as one piece."""
        async with aclosing(self.follow(after)) as batches:
            async for batch in batches:
                yield b"".join(batch)

    async def follow(self, after: int = -1) -> AsyncGenerator[Sequence[bytes], None]:
        """The frames with a sequence number above `after`, as they come, until the end."""
        self._readers += 1
        position = max(0, after + 1 - self._first)
        try:
            while True:
                if position < len(self._frames):
                    waiting = self._frames[position:]
                    position += len(waiting)
                    yield waiting
                elif self._closed:
                    return
                else:
                    await self._next_change()
        finally:
            self._leave()

    def _leave(self) -> None:
        self._readers -= 1
        if not self._readers and not self._closed:
            self._abandoned()

    async def _next_change(self) -> None:
        # No await between a reader's look at the list and this: nothing can be missed.
        self._changed.clear()
        await self._changed.wait()
