"""A whole gateway on a real port: scripted engine, MCP example server over stdio, SQLite."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from openai import AsyncOpenAI

from smg.app import Gateway, gateway
from smg.server import new_config
from smg.settings import Settings
from smg.testing.engine import ScriptedEngine
from smg.testing.vocabulary import MODEL_PATH

PATIENCE_SECONDS = 10.0
MODEL = "scripted"


@dataclass(frozen=True, slots=True)
class Served:
    """A running gateway and everything around it."""

    gateway: Gateway
    engine: ScriptedEngine
    url: str
    http: httpx2.AsyncClient
    openai: AsyncOpenAI

    async def post(self, path: str, **fields: Any) -> httpx2.Response:
        return await self.http.post(path, json={"model": MODEL, **fields})


def write_tools(folder: Path, *flags: str) -> Path:
    """An MCP configuration with the example server, labelled `tools`."""
    server = {"command": sys.executable, "args": ["-m", "smg.testing.tools", *flags]}
    approved = {**server, "require_approval": "always"}
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"tools": server, "guarded": approved}}))
    return path


@asynccontextmanager
async def listening(running: Gateway) -> AsyncIterator[str]:
    """The gateway on a free port; its base URL."""
    server = uvicorn.Server(new_config(running.app, running.settings))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            running.doors.close()
            server.should_exit = True
            await serving


@asynccontextmanager
async def served(folder: Path, *, tools: bool = True, **settings: Any) -> AsyncIterator[Served]:
    """A gateway for as long as the block lasts; `settings` go before the usual ones."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(ScriptedEngine())
        usual: dict[str, Any] = {
            "worker_urls": (engine.url,),
            "model_path": str(MODEL_PATH),
            "database_url": f"sqlite:///{folder / 'smg.db'}",
            "mcp_config_path": str(write_tools(folder, "--misbehave")) if tools else None,
            "shutdown_grace_seconds": 1.0,
            "strict_streams": True,
        }
        running = await stack.enter_async_context(gateway(Settings(**{**usual, **settings})))
        url = await stack.enter_async_context(listening(running))
        http = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=f"{url}/v1", timeout=PATIENCE_SECONDS)
        )
        client = await stack.enter_async_context(
            AsyncOpenAI(
                base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_SECONDS
            )
        )
        yield Served(running, engine, url, http, client)
