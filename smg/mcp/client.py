"""One server as its callers see it: its tools, and a call to its result.

Arguments go in, results come out, whatever goes wrong. A call that takes too long is cancelled, one
too many waits, and a server that has only failed is left alone for a while. How the connection is
made and kept is the other half (smg.mcp.connection).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from mcp import MCPError
from mcp.types import CONNECTION_CLOSED, INVALID_REQUEST

from smg.errors import ToolServerError
from smg.mcp.breaker import Attempt, Tripped
from smg.mcp.connection import NO_TIES, KeptConnection, Live, Ties
from smg.mcp.definitions import Catalog
from smg.mcp.results import failure, read_result
from smg.mcp.spec import ServerSpec
from smg.turn import Now, ToolResult

_log = logging.getLogger(__name__)

Progress = Callable[[str | None, float | None], None]
"""Told a server's words on a call under way, and how much of it is done, from 0 to 1."""


@dataclass(slots=True)
class _Call:
    """One call on its way."""

    name: str
    arguments: dict[str, Any]
    attempt: Attempt
    progress: Progress | None
    sent: bool = False


class ServerConnection(KeptConnection):
    """One server, connected from `start` to `close`.

    Calls run in their callers' tasks, as many at once as the description allows.
    """

    def __init__(self, spec: ServerSpec, now: Now, ties: Ties = NO_TIES) -> None:
        super().__init__(spec, now, ties)
        self.running = 0
        """Calls under way, those that wait for their turn too."""
        self.progress: float | None = None
        """How much was done of the call that last told it, from 0 to 1."""
        self._slots = asyncio.Semaphore(spec.max_concurrency)
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def breaker(self) -> str:
        """Whether calls are let through: closed, open or half_open."""
        return self._breaker.state

    @property
    def questions(self) -> int:
        """Questions of the server that the gateway's model has answered."""
        return self._questions.answered

    @property
    def blocked(self) -> str | None:
        """Why nothing of the server may be used, though it may be there."""
        return self._pins.blocked

    async def approve(self) -> None:
        """Agree to the tools as they are now.

        Raises:
            StorageError: that cannot be kept.
        """
        self.catalog = await self._pins.approve()

    async def tools(self) -> Catalog:
        """The server's tools, as they are now.

        Raises:
            ToolServerError: it cannot be reached within the time for connecting, has not been for
                some time, or its tools have changed and must not be used.
        """
        if self._live is None:
            await self._reach()
        if self.blocked is not None:
            raise ToolServerError(f"MCP server {self.spec.label!r} is not used: {self.blocked}")
        return self.catalog

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        timeout_s: float | None = None,
        progress: Progress | None = None,
    ) -> ToolResult:
        """Call a tool: whatever goes wrong is a result. Cancelling this tells the server, too."""
        if (refusal := self._pins.refusal(name)) is not None:
            return failure(f"{name!r} was not called: {refusal}")
        self.running += 1
        self._idle.clear()
        try:
            with self._breaker.attempt() as attempt:
                call = _Call(name, dict(arguments), attempt, progress)
                return await self._timed(call, timeout_s or self.spec.timeout_s)
        except Tripped as tripped:
            return failure(
                f"{name!r} was not called: {self.spec.label!r} has failed"
                f" {self.spec.breaker.failures} times in a row and is {tripped}"
            )
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until the calls under way have ended; each has its deadline."""
        await self._idle.wait()

    async def _timed(self, call: _Call, seconds: float) -> ToolResult:
        with anyio.move_on_after(seconds):
            async with self._slots:
                with self._questions.during_call():
                    return await self._call(call)
        if not call.sent:
            if self._live is None:
                call.attempt.succeeded = False
            return failure(
                f"{call.name!r} was not called: {self.spec.label!r} was not connected,"
                f" or busy with other calls, for {seconds:g} s"
            )
        call.attempt.succeeded = False
        if self._live is not None:
            self._live.traces.changed.set()  # A server that cannot even list any more is replaced.
        return failure(f"{call.name!r} gave no result within {seconds:g} s and was cancelled")

    async def _call(self, call: _Call) -> ToolResult:
        for _ in range(2 if call.name in self.spec.idempotent_tools else 1):
            try:
                live = await self._connected()
            except ToolServerError as error:
                call.attempt.succeeded = False
                return failure(error.message)
            call.sent = True
            if (result := await self._send(live, call)) is not None:
                call.attempt.succeeded = True
                return result
        call.attempt.succeeded = False
        return failure(
            f"The connection to {self.spec.label!r} was lost during the call:"
            f" whether {call.name!r} has done its work is not known"
        )

    async def _send(self, live: Live, call: _Call) -> ToolResult | None:
        """The result; `None` if the connection was lost before it came."""

        async def heard(progress: float, total: float | None, message: str | None) -> None:
            self._progressed(call, progress / total if total else None, message)

        try:
            answer = await live.client.call_tool(call.name, call.arguments, progress_callback=heard)
        except MCPError as error:
            if _means_lost(error):
                self._drop(live, error.message)
                return None
            return failure(self._shown(error.message), code=error.code)
        except Exception as error:  # noqa: BLE001 - The SDK raises many things; all are this call's end.
            if self._live is not live:
                return None
            kind = type(error).__name__  # No more: messages quote what the tool answered.
            _log.warning("MCP server %s: %s failed: %s", self.spec.label, call.name, kind)
            return failure(self._shown(str(error)))
        return read_result(answer, self.spec.max_output_bytes)

    def _progressed(self, call: _Call, fraction: float | None, message: str | None) -> None:
        said = None if message is None else self._shown(message)
        _log.debug("MCP server %s: %s: %s (%s)", self.spec.label, call.name, said, fraction)
        if fraction is not None:
            self.progress = min(1.0, max(0.0, fraction))
        if call.progress is not None:
            call.progress(said, fraction)

    async def _reach(self) -> None:
        """Wait for the connection, unless it has not come up often enough.

        Raises:
            ToolServerError: it does not come up, or is not tried now.
        """
        try:
            with self._breaker.attempt() as attempt:
                with anyio.move_on_after(self.spec.connect_timeout_s):
                    try:
                        await self._connected()
                    except ToolServerError:
                        attempt.succeeded = False
                        raise
                    return
                attempt.succeeded = False
                raise self._unreachable()
        except Tripped as tripped:
            raise ToolServerError(f"{self._unreachable().message} ({tripped})") from None


def _means_lost(error: MCPError) -> bool:
    """Whether the session is gone, so that only a new one helps."""
    gone = error.code == INVALID_REQUEST and error.message == "Session terminated"
    return gone or error.code == CONNECTION_CLOSED
