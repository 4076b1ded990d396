"""How many connections are held at once: no more than leave files for what they cause.

Each connection is an open file, and each may need more: of the database, of workers, of tool
servers. When none is left everything fails in the middle; so those that would be too many are
refused at the door. uvicorn's own limit counts requests after their connections were taken, and
refuses those of old connections too.
"""

import asyncio
import json
import logging
import sys
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from smg.errors import Overloaded

log = logging.getLogger(__name__)

FEW_FILES = 4096
MANY_FILES = 65_536
"""More are not asked for: tool servers inherit the limit, and some programs count up to it."""
HEADER_SECONDS = 30.0
"""Within this a new connection has to say what it wants: who says nothing takes up room."""


def more_files() -> int | None:
    """Let this process open as many files as it may; how many, if that is limited."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - not there on Windows.

    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if most == resource.RLIM_INFINITY else min(most, MANY_FILES)
    if now == resource.RLIM_INFINITY or now >= wanted:
        return None if now == resource.RLIM_INFINITY else now
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    except (ValueError, OSError) as error:  # Some systems have a limit below the one they tell.
        log.debug("No more than %d files can be opened: %s", now, error)
        return now
    return wanted


def most_connections(files: int | None) -> int | None:
    """Of so many files half are for clients: what one of them causes takes another, rarely more."""
    if files is None:
        return None
    if files < FEW_FILES:
        log.warning(
            "This process may open %d files, so it takes %d connections; `ulimit -n` gives more",
            files,
            files // 2,
        )
    return files // 2


def new_protocol(most: int | None, header_s: float = HEADER_SECONDS) -> type[HttpToolsProtocol]:
    """HTTP as uvicorn speaks it, with no more than so many connections."""

    class Protocol(_Counted):
        most_connections = most
        header_seconds = header_s

    return Protocol


class _Counted(HttpToolsProtocol):
    most_connections: int | None
    header_seconds: float
    _hurry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.most_connections is not None and len(self.connections) > self.most_connections:
            transport.write(REFUSAL)
            transport.close()
        else:
            self._hurry = self.loop.call_later(self.header_seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_spoken()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        self._has_spoken()
        super().on_headers_complete()

    def _has_spoken(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None


def _refusal() -> bytes:
    error = Overloaded("Too many connections; try again")
    body = json.dumps(error.envelope()).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


REFUSAL = _refusal()
