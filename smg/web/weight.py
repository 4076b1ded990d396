"""How much of clients' bodies is held at once: each piece that is read is weighed first.

A body is held for as long as its request is worked on, in one form or another. What would be too
much is refused while it is read, so that many large ones together do not take the memory of all.
"""

from dataclasses import dataclass
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from smg.errors import Overloaded

_LOAD: Final = "smg.load"


class Scales:
    """What all requests together may hold."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0
        """Bytes held now."""

    def add(self, size: int) -> None:
        """Take so many bytes more.

        Raises:
            Overloaded: there is no room for them now.
        """
        if self.held + size > self._most:
            raise Overloaded(
                f"All requests together hold {self.held} bytes of bodies, and no more than "
                f"{self._most} may be held (--max-bodies-mib); try again"
            )
        self.held += size

    def remove(self, size: int) -> None:
        """Have let go of so many bytes."""
        self.held -= size


@dataclass(slots=True)
class Load:
    """What one request holds."""

    scales: Scales
    size: int = 0

    def add(self, size: int) -> None:
        """Take so many bytes more.

        Raises:
            Overloaded: there is no room for them now.
        """
        self.scales.add(size)
        self.size += size


class Weighed:
    """The middleware: what a request holds is let go when it has been answered."""

    def __init__(self, app: ASGIApp, scales: Scales) -> None:
        self._app = app
        self._scales = scales

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give a connection a load of its own."""
        load = Load(self._scales)
        scope[_LOAD] = load
        try:
            await self._app(scope, receive, send)
        finally:
            self._scales.remove(load.size)


def load_of(connection: HTTPConnection) -> Load:
    """The load that the middleware has made."""
    load = connection.scope[_LOAD]
    assert isinstance(load, Load)
    return load
