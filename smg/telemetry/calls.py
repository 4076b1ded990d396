"""Tool servers whose calls are timed: servers, outcomes and seconds go to whoever counts them."""

import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol

from smg.items import McpTool
from smg.turn import ToolResult

BROUGHT: Final = "(request)"
"""All servers that requests bring along: what clients call them is no label."""
UNKNOWN: Final = "(unknown)"
"""Servers that the configuration does not name any more."""

Told = Callable[[str, str, float], None]
"""Told of each call: its server, its outcome, its seconds."""


async def timed(server: str, told: Told, call: Awaitable[ToolResult]) -> ToolResult:
    """A call's result; how it went is told, also if nobody waits for it any more."""
    begun, outcome = time.perf_counter(), "interrupted"
    try:
        result = await call
        outcome = result.error.kind if result.error else "ok"
        return result
    finally:
        told(server, outcome, time.perf_counter() - begun)


class RequestServer(Protocol):
    """A tool server that a request brought along."""

    async def tools(self) -> tuple[McpTool, ...]:
        """Its tools."""
        ...

    async def call(self, name: str, arguments: str) -> ToolResult:
        """Run one call."""
        ...


class TimedServer:
    """Such a server, with somebody who is told."""

    def __init__(self, server: RequestServer, told: Told) -> None:
        self._server = server
        self._told = told

    async def tools(self) -> tuple[McpTool, ...]:
        """Its tools."""
        return await self._server.tools()

    async def call(self, name: str, arguments: str) -> ToolResult:
        """Run one call."""
        return await timed(BROUGHT, self._told, self._server.call(name, arguments))


def label_of(server: str, known: Collection[str]) -> str:
    """The label of a server, one of those that the operator knows."""
    return server if server in known else UNKNOWN
