"""What lives on while gateways die: an engine, a tool server with a ledger, and a database file."""

import asyncio
import signal
import socket
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx2
import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette

from smg.faults import VARIABLE
from smg.testing.engine import EngineOptions, ScriptedEngine
from smg.testing.nursery import Born, Nursery, nursery
from smg.testing.vocabulary import MODEL_PATH

PATIENCE_SECONDS = 30.0
CALL_SECONDS = 0.02
"""How long a booking takes, so that a gateway can die meanwhile."""


@dataclass
class Ledger:
    """What was really booked: written before the answer is given."""

    calls: Counter[str] = field(default_factory=Counter)

    async def book(self, what: str) -> str:
        """Book something; each trial books things of its own."""
        self.calls[what] += 1
        await asyncio.sleep(CALL_SECONDS)
        return f"booked {what}"


class Victim:
    """A gateway process on a free port."""

    def __init__(self, process: Born, port: int) -> None:
        self._process = process
        base = f"http://127.0.0.1:{port}/v1"
        self.http = httpx2.AsyncClient(base_url=base, timeout=PATIENCE_SECONDS)
        self._reader: asyncio.Task[None] | None = None
        self.said: list[str] = []
        """Its log so far."""

    @classmethod
    async def start(
        cls, nursery: Nursery, flags: tuple[str, ...], environment: Mapping[str, str]
    ) -> Self:
        """Start one; it may be dead already when this returns."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        victim = cls(await nursery.start(("--port", str(port), *flags), environment), port)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (line := await victim._line()) and "Listening on" not in line:
                pass
        victim._reader = asyncio.create_task(victim._read_on())
        return victim

    async def died(self) -> None:
        """Wait until it is gone."""
        if self._reader is not None:
            await asyncio.shield(self._reader)

    @property
    def is_alive(self) -> bool:
        """Whether it is still there."""
        return not self._process.said.at_eof()

    async def kill(self) -> None:
        """End it as a crash does; who is talking to it finds out."""
        self._process.signal(signal.SIGKILL)
        await self.died()

    async def forget(self) -> None:
        """Let go of its connections, once nobody talks to it any more."""
        await self.http.aclose()

    async def _line(self) -> str:
        line = (await self._process.said.readline()).decode(errors="replace")
        if line:
            self.said.append(line)
        return line

    async def _read_on(self) -> None:
        while await self._line():
            pass


@dataclass(frozen=True)
class World:
    """Everything around the gateways."""

    engine: ScriptedEngine
    ledger: Ledger
    folder: Path
    nursery: Nursery
    flags: tuple[str, ...]

    async def start(self, fault: str = "") -> Victim:
        """Start a gateway on the one database, with a fault such as `save-before:2`."""
        return await Victim.start(self.nursery, self.flags, {VARIABLE: fault})

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the database says, read around the gateway."""
        with closing(sqlite3.connect(self.folder / "smg.db", timeout=10)) as connection:
            return connection.execute(query, values).fetchall()

    async def settled(self) -> list[str]:
        """Wait until no response is unfinished; the ids of those that still are."""
        left: list[str] = []
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while left := self._unfinished():  # noqa: ASYNC110 - others do the work.
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return left
        return []

    def _unfinished(self) -> list[str]:
        query = "SELECT id FROM responses WHERE status IN ('queued', 'in_progress')"
        return [found for (found,) in self.rows(f"{query} AND NOT deleted")]


@asynccontextmanager
async def world(folder: Path, *, lease_seconds: float, itl_ms: float) -> AsyncIterator[World]:
    """An engine and a tool server, and a folder for the gateways between them."""
    ledger = Ledger()
    server = MCPServer("desk", log_level="WARNING")
    server.tool(name="book")(ledger.book)
    async with AsyncExitStack() as stack:
        app = server.streamable_http_app()
        await stack.enter_async_context(app.router.lifespan_context(app))
        url = await stack.enter_async_context(_listening(app))
        options = EngineOptions(itl_ms=itl_ms)
        engine = await stack.enter_async_context(ScriptedEngine(options=options))
        config = folder / "mcp.yaml"
        config.write_text(f"mcpServers: {{desk: {{url: {url}/mcp}}}}\n")
        flags = (
            *("--worker-urls", engine.url, "--model-path", str(MODEL_PATH)),
            *("--database-url", f"sqlite:///{folder / 'smg.db'}"),
            *("--mcp-config-path", str(config), "--lease-seconds", str(lease_seconds)),
        )
        born = await stack.enter_async_context(nursery())
        yield World(engine, ledger, folder, born, flags)


@asynccontextmanager
async def _listening(app: Starlette) -> AsyncIterator[str]:
    """The application on a free port; its URL."""
    config = uvicorn.Config(
        app, log_config=None, log_level="critical", lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
