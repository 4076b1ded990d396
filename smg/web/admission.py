"""Admission: requests that make a model work pass the gates; all others pass by.

Middleware in plain ASGI gives each connection an entrance, and takes back with its last byte what
was taken there. The endpoint goes through it once it has read what is asked for, and before any
work: until then nobody knows the model.
"""

import asyncio
from contextlib import ExitStack
from typing import Final

from fastapi import Request
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from smg.errors import GatewayError, Unauthorized
from smg.web.auth import OwnerOf
from smg.web.body import disconnected
from smg.web.doors import Doors
from smg.web.errors import response_for
from smg.web.line import Place, Priority

PRIORITY_HEADER: Final = "x-smg-priority"
GENERATING: Final = frozenset(
    {
        "/v1/responses",
        "/v1/responses/compact",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
    }
)
_ENTRANCE: Final = "smg.entrance"
_BY_NAME: Final = {
    priority.name: priority for priority in Priority if priority is not Priority.BACKGROUND
}


class Gone(Exception):
    """Raised when a client has left before it was let in: nobody is there to be answered."""


class Entrance:
    """One connection's way in, and the places that it has."""

    def __init__(self, doors: Doors, priority: Priority) -> None:
        self.doors = doors
        self._priority = priority
        self._arrival = ExitStack()
        self._places: list[Place] = []

    def arrive(self, owner: str) -> None:
        """Be on the way: what is wanted has yet to be read.

        Raises:
            ShuttingDown: nobody is let in any more.
            Busy: the line is full.
        """
        self._arrival.enter_context(self.doors.arriving(owner))

    async def enter(self, owner: str, model: str) -> Place:
        """A place, which is given back with the connection's end.

        Raises:
            ShuttingDown: nobody is let in any more.
            Busy: too many came too quickly, too many wait, or the wait was too long.
        """
        self._arrival.close()
        place = await self.doors.enter(owner, model, self._priority)
        self._places.append(place)
        return place

    def leave(self) -> None:
        """Give back what was taken."""
        self._arrival.close()
        while self._places:
            self._places.pop().leave()


def entrance_of(connection: HTTPConnection) -> Entrance:
    """The entrance that the middleware has made."""
    entrance = connection.scope[_ENTRANCE]
    assert isinstance(entrance, Entrance)
    return entrance


async def admitted(request: Request, owner: str, model: str) -> Place:
    """A place for a request whose body was read, as long as its answer takes.

    Raises:
        ShuttingDown: nobody is let in any more.
        Busy: too many came too quickly, too many wait, or the wait was too long.
        Gone: the client has left the line.
    """
    entering = asyncio.create_task(entrance_of(request).enter(owner, model))
    await asyncio.sleep(0)
    if entering.done():  # Nearly always: nothing waits.
        return entering.result()
    gone = asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait({entering, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not entering.done():
            entering.cancel()
        gone.cancel()
        await asyncio.wait({entering, gone})
    if entering.cancelled():
        raise Gone
    return entering.result()


class Admission:
    """The middleware."""

    def __init__(self, app: ASGIApp, doors: Doors, owner_of: OwnerOf) -> None:
        self._app = app
        self._doors = doors
        self._owner_of = owner_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give a connection its entrance; refuse at once whom it would be closed to."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        entrance = Entrance(self._doors, _priority(connection))
        scope[_ENTRANCE] = entrance
        try:
            refusal = self._refusal(entrance, connection)
            app = self._app if refusal is None else response_for(refusal)
            await app(scope, receive, send)
        except Gone:
            return
        finally:
            entrance.leave()

    def _refusal(self, entrance: Entrance, connection: HTTPConnection) -> GatewayError | None:
        if not _makes_work(connection.scope):
            return None
        try:
            entrance.arrive(self._owner_of(connection))
        except Unauthorized:
            return None  # The endpoint says so, and does nothing else.
        except GatewayError as error:
            return error
        return None


def _makes_work(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in GENERATING


def _priority(connection: HTTPConnection) -> Priority:
    """An unknown word is no reason to refuse a request."""
    text = connection.headers.get(PRIORITY_HEADER, "")
    return _BY_NAME.get(text.strip().upper(), Priority.DEFAULT)
