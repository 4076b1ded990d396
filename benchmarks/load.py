"""Many clients in one process, lean enough to leave the cores to what is measured.

In goes a request as bytes and how its answer ends, out come counts and times. Every connection
asks again as soon as it has its answer, as wrk's do. It reads just as much HTTP as that takes.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from smg.errors import GatewayError

CHUNKED_END = b"\r\n0\r\n\r\n"
GRACE_SECONDS = 30.0
"""How long answers may still take when no more are asked for."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class LoadFailed(GatewayError):
    """Raised when an answer was not what the load is about: its numbers would mean nothing."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that is sent over and over."""

    request: bytes
    ending: bytes
    """What a good answer has near its end."""
    first: re.Pattern[bytes] | None = None
    """How a stream's first text looks; `None`: it is no stream."""


@dataclass(slots=True)
class Measured:
    """What came of it. Answers are whole: none was cut at the end of the time."""

    seconds: float = 0.0
    took: list[float] = field(default_factory=list)
    """Seconds of each answer."""
    first_after: list[float] = field(default_factory=list)
    """Seconds to each stream's first text."""
    received: int = 0
    """Bytes, HTTP's own included."""


async def drive(port: int, ask: Ask, *, connections: int, seconds: float) -> Measured:
    """Keep this many connections busy for this long.

    Raises:
        LoadFailed: an answer was an error or cut short.
    """
    loop = asyncio.get_running_loop()
    measured = Measured()
    start = time.perf_counter()
    clients: list[_Client] = []
    try:
        async with asyncio.timeout(seconds + GRACE_SECONDS):
            for _ in range(connections):
                _, client = await loop.create_connection(
                    lambda: _Client(ask, measured, start + seconds), "127.0.0.1", port
                )
                clients.append(client)
            # Not all at once: streams that begin together would wait for each other.
            for number, client in enumerate(clients):
                loop.call_later(min(0.5, seconds / 4) * number / connections, client.ask)
            await asyncio.gather(*(client.done for client in clients))
    finally:
        for client in clients:
            client.close()
    measured.seconds = time.perf_counter() - start
    return measured


class _Client(asyncio.Protocol):
    """One connection that stays open."""

    def __init__(self, ask: Ask, measured: Measured, until: float) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ask = ask
        self._measured = measured
        self._until = until
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self._tail = b""
        self._length: int | None = None
        self._asked_at = 0.0
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not a subclass of asyncio's in uvloop.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(LoadFailed(f"The connection was closed: {exc}"))

    def ask(self) -> None:
        """Send the request, or end if the time is over."""
        now = time.perf_counter()
        if self.done.done():
            return
        if now >= self._until:
            self.done.set_result(None)
            return
        assert self._transport is not None
        self._pieces.clear()
        self._tail, self._length = b"", None
        self._asked_at, self._waiting = now, self._ask.first is not None
        self._transport.write(self._ask.request)

    def close(self) -> None:
        if not self.done.done():
            self.done.cancel()
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        if self._waiting:
            self._look_for_first()
        self._tail = (self._tail + data)[-len(CHUNKED_END) :]
        if self._tail == CHUNKED_END or (self._ask.first is None and self._has_all()):
            self._answered()

    def _look_for_first(self) -> None:
        assert self._ask.first is not None
        if self._ask.first.search(b"".join(self._pieces)):
            self._waiting = False
            self._measured.first_after.append(time.perf_counter() - self._asked_at)

    def _has_all(self) -> bool:
        if self._length is None:
            head, blank, _ = b"".join(self._pieces).partition(b"\r\n\r\n")
            if not blank or (found := _LENGTH.search(head)) is None:
                return False
            self._length = len(head) + len(blank) + int(found[1])
        return sum(map(len, self._pieces)) >= self._length

    def _answered(self) -> None:
        if self.done.done():
            return
        answer = b"".join(self._pieces)
        if not answer.startswith(b"HTTP/1.1 200") or self._ask.ending not in answer:
            self.done.set_exception(LoadFailed(f"Not the answer: {answer[:300]!r}"))
            return
        self._measured.took.append(time.perf_counter() - self._asked_at)
        self._measured.received += len(answer)
        self.ask()


def post(path: str, body: bytes) -> bytes:
    """An HTTP request."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def percentile(values: Sequence[float], part: float) -> float:
    """The value that this part of all are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
