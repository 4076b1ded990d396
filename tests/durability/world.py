"""A gateway that can be killed, between an engine and a tool server that live on.

The engine and the tool server run in the test; the gateway is a process of its own. The tool
server's ledger shows each call that really reached it, and answers when the test says so.
"""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from mcp.server import MCPServer
from openai import AsyncOpenAI
from starlette.applications import Starlette

from smg.testing.engine import EngineOptions, ScriptedEngine
from smg.testing.vocabulary import MODEL_PATH

PATIENCE_SECONDS = 20.0
LEASE_SECONDS = 0.6


@dataclass
class Ledger:
    """What was really booked, and the answers still owed."""

    calls: list[str] = field(default_factory=list)
    open: bool = True
    """Whether calls are answered at once."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def book(self, what: str) -> str:
        async with self.changed:
            self.calls.append(what)
            self.changed.notify_all()
            await self.changed.wait_for(lambda: self.open)
        return f"booked {what}"

    async def release(self) -> None:
        async with self.changed:
            self.open = True
            self.changed.notify_all()

    async def reached(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), self.changed:
            await self.changed.wait_for(lambda: len(self.calls) >= count)


@dataclass
class World:
    """Everything around the gateways of one test."""

    engine: ScriptedEngine
    ledger: Ledger
    server: MCPServer
    folder: Path
    tool_url: str
    stack: AsyncExitStack
    idempotent: bool = False
    database_url: str = ""
    """Where the gateways keep their state; else a file in the folder."""

    async def start(self, *flags: str) -> "Process":
        """Start a gateway on the one database."""
        config = self.folder / "mcp.json"
        server = {
            "url": f"{self.tool_url}/mcp",
            "default": True,
            "idempotent_tools": ["book"] if self.idempotent else [],
        }
        config.write_text(json.dumps({"mcpServers": {"desk": server}}))
        process = await Process.start(
            *("--worker-urls", self.engine.url, "--model-path", str(MODEL_PATH)),
            *("--database-url", self.database_url or f"sqlite:///{self.folder / 'smg.db'}"),
            *("--seal-key", "one for all gateways"),
            *("--mcp-config-path", str(config), "--lease-seconds", str(LEASE_SECONDS)),
            *("--shutdown-grace-seconds", "0.2", *flags),
        )
        self.stack.push_async_callback(process.end)
        return process


class Process:
    """A gateway process on a free port."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx2.AsyncClient(base_url=f"{self.url}/v1", timeout=PATIENCE_SECONDS)
        self.openai = AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_SECONDS
        )

    @classmethod
    async def start(cls, *flags: str, within: tuple[str, ...] = ()) -> "Process":
        """Start a gateway; `within` is a command that runs it."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(*within, sys.executable, "-m", "smg", "--port", str(port), *flags),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        said = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b"Listening on" not in (line := await process.stderr.readline()):
                said.append(line.decode())
                assert line, "".join(said)
        return cls(process, port)

    async def log_until(self, words: str) -> str:
        """What it says from now on, up to a line with these words."""
        assert self.process.stderr is not None
        said = ""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while words not in said and (line := await self.process.stderr.readline()):
                said += line.decode()
        return said

    async def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        await self.process.wait()

    async def freeze(self, database: Path) -> None:
        """Stop it, but not while it holds the database: then nobody could go on."""
        while True:
            self.process.send_signal(signal.SIGSTOP)
            if is_writable(database):
                return
            self.thaw()
            await asyncio.sleep(0.01)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        if self.process.returncode is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
            await self.process.wait()
        await self.http.aclose()
        await self.openai.close()


@asynccontextmanager
async def world(folder: Path, *, itl_ms: float = 0.0) -> AsyncIterator[World]:
    """An engine and a tool server, and room for gateways between them."""
    ledger = Ledger()
    server = MCPServer("desk")
    server.tool(name="book")(ledger.book)
    async with AsyncExitStack() as stack:
        app = server.streamable_http_app()
        await stack.enter_async_context(app.router.lifespan_context(app))
        tool_url = await stack.enter_async_context(_listening(app))
        engine = await stack.enter_async_context(
            ScriptedEngine(options=EngineOptions(itl_ms=itl_ms))
        )
        gateways = await stack.enter_async_context(AsyncExitStack())
        try:
            yield World(engine, ledger, server, folder, tool_url, gateways)
        finally:
            await ledger.release()


@asynccontextmanager
async def _listening(app: Starlette) -> AsyncIterator[str]:
    """The application on a free port; its base URL."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


def is_writable(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=0.2)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True


def journal(database: Path) -> list[tuple[str, dict[str, Any]]]:
    """The entries of all responses, oldest first: kind and state."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT kind, state FROM steps ORDER BY at, number")
        return [(kind, json.loads(state)) for kind, state in rows]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again, for a while, whether another process has come so far."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - another process tells nobody.
            await asyncio.sleep(0.05)


async def stream(gateway: Process, text: str, begun: asyncio.Event) -> list[dict[str, Any]]:
    """The events of a streamed response, read to its end; `begun` is set at its first text."""
    body = {"model": "scripted", "input": text, "stream": True}
    found = []
    async with gateway.http.stream("POST", "/responses", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                found.append(json.loads(line.removeprefix("data: ")))
                if found[-1]["type"] == "response.output_text.delta":
                    begun.set()
    return found


async def finished(gateway: Process, response_id: str) -> dict[str, object]:
    """The response once it has ended."""
    found: dict[str, object] = {}

    async def is_over() -> bool:
        answer = await gateway.http.get(f"/responses/{response_id}")
        found.clear()
        found.update(answer.json())
        return found["status"] not in ("queued", "in_progress")

    await until(is_over)
    return found
