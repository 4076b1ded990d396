"""Admission: requests that make a model work pass the gates; all others pass by.

Middleware in plain ASGI, so that a stream keeps its place until its last byte. What a request asks
for is not looked at, only its path, its key and its priority.
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smg.errors import GatewayError, Unauthorized
from smg.web.auth import OwnerOf
from smg.web.errors import response_for
from smg.web.gate import Busy, Gate, GateRules, Priority, ShuttingDown

PRIORITY_HEADER: Final = "x-smg-priority"
GENERATING: Final = frozenset(
    {"/v1/responses", "/v1/responses/compact", "/v1/chat/completions", "/v1/completions"}
)
LARGEST_HELD: Final = 1024 * 1024
"""Of a waiting request's body; while more is to come it is not seen whether its client leaves."""


class Doors:
    """The gate of all requests, and one for each key; closed for good at shutdown."""

    def __init__(self, rules: GateRules, key_rules: GateRules) -> None:
        self.common = Gate(rules)
        self._closed_at: float | None = None
        self._key_rules = key_rules
        self._keys: dict[str, Gate] = {}

    def of(self, owner: str) -> Gate:
        """The gate of one key's requests."""
        if owner not in self._keys:  # As many as there are keys.
            self._keys[owner] = Gate(self._key_rules)
        return self._keys[owner]

    @property
    def is_closed(self) -> bool:
        """Whether the gateway is shutting down."""
        return self._closed_at is not None

    def close(self) -> None:
        """Let nobody in any more."""
        if self._closed_at is None:
            self._closed_at = time.monotonic()

    def grace_left(self, grace_s: float) -> float:
        """What is left of the time that those inside have since the doors were closed."""
        passed = 0.0 if self._closed_at is None else time.monotonic() - self._closed_at
        return max(0.0, grace_s - passed)

    @property
    def states(self) -> Mapping[str, int]:
        """How many are inside, wait, and were refused."""
        gates = [self.common, *self._keys.values()]
        return {
            "running": self.common.running,
            "waiting": sum(gate.waiting for gate in gates),
            "refused": sum(gate.refused for gate in gates),
        }


class Admission:
    """The middleware."""

    def __init__(self, app: ASGIApp, doors: Doors, owner_of: OwnerOf) -> None:
        self._app = app
        self._doors = doors
        self._owner_of = owner_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, now or later, or refuse it."""
        if not _makes_work(scope):
            await self._app(scope, receive, send)
            return
        inbox = _Inbox(receive)
        async with AsyncExitStack() as places:
            try:
                if self._doors.is_closed:
                    raise ShuttingDown("The gateway is shutting down.")
                if not await inbox.unless_gone(self._enter(scope, places)):
                    return
            except Unauthorized:
                pass  # The endpoint says so, and does nothing else.
            except GatewayError as error:
                await _refuse(error, scope, receive, send)
                return
            await self._app(scope, inbox.receive, send)

    async def _enter(self, scope: Scope, places: AsyncExitStack) -> None:
        connection = HTTPConnection(scope)
        priority = _priority(connection.headers.get(PRIORITY_HEADER, ""))
        # The key's gate first: who waits there takes no common place.
        for gate in (self._doors.of(self._owner_of(connection)), self._doors.common):
            await places.enter_async_context(gate.place(priority))


def _makes_work(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in GENERATING


def _priority(text: str) -> Priority:
    """An unknown word is no reason to refuse a request."""
    return Priority.__members__.get(text.strip().upper(), Priority.DEFAULT)


async def _refuse(error: GatewayError, scope: Scope, receive: Receive, send: Send) -> None:
    response = response_for(error)
    if isinstance(error, Busy):
        response.headers["retry-after"] = str(error.retry_after)
    await response(scope, receive, send)


class _Inbox:
    """What a client sends while its request waits, kept for the endpoint."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: deque[Message] = deque()

    async def receive(self) -> Message:
        """The next message, of those kept first."""
        return self._kept.popleft() if self._kept else await self._receive()

    async def unless_gone(self, entering: Coroutine[Any, Any, None]) -> bool:
        """Wait for a place; whether the client was still there when it came."""
        place = asyncio.create_task(entering)
        await asyncio.sleep(0)
        if place.done():  # Nearly always: nothing waits.
            place.result()
            return True
        gone = asyncio.create_task(self._gone())
        try:
            await asyncio.wait({place, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not place.done():
                place.cancel()
            gone.cancel()
            await asyncio.wait({place, gone})
        return not place.cancelled() and place.result() is None

    async def _gone(self) -> None:
        """Return when the client has left, keeping what it sends before."""
        held = 0
        while held <= LARGEST_HELD:
            message = await self._receive()
            self._kept.append(message)
            if message["type"] == "http.disconnect":
                return
            held += len(message.get("body", b""))
        await asyncio.Event().wait()
