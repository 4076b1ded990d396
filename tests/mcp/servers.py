"""Real tool servers for tests: the example over each transport, and a raw one that misbehaves."""

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from smg.mcp.client import ServerConnection
from smg.mcp.spec import Command, Endpoint, Secret, ServerSpec
from smg.testing.tools import new_server

RAW_SERVER = Path(__file__).with_name("raw_server.py")


def stdio_spec(**options: Any) -> ServerSpec:
    """The example server as a process."""
    command = Command(program=sys.executable, args=("-m", "smg.testing.tools", "--misbehave"))
    return replace(ServerSpec(label="example", transport=command, connect_timeout_s=20), **options)


def raw_spec(behaviour: str, **options: Any) -> ServerSpec:
    """A process that speaks JSON-RPC by hand, and badly."""
    command = Command(program=sys.executable, args=(str(RAW_SERVER), behaviour))
    return replace(ServerSpec(label="raw", transport=command, connect_timeout_s=20), **options)


def http_spec(url: str, **options: Any) -> ServerSpec:
    """A server behind a URL."""
    return replace(ServerSpec(label="example", transport=Endpoint(url=Secret(url))), **options)


def down_spec(**options: Any) -> ServerSpec:
    """A server whose port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return http_spec(f"http://127.0.0.1:{port}/mcp", **{"label": "down"} | options)


@asynccontextmanager
async def example(transport: str, **options: Any) -> AsyncGenerator[ServerSpec, None]:
    """The example server, running as long as the context is open."""
    if transport == "stdio":
        yield stdio_spec(**options)
    elif transport == "streamable":
        async with served(new_server(misbehave=True).streamable_http_app()) as url:
            yield http_spec(f"{url}/mcp", **options)
    else:
        async with served(new_server(misbehave=True).sse_app()) as url:
            endpoint = Endpoint(url=Secret(f"{url}/sse"), protocol="sse")
            yield replace(ServerSpec(label="example", transport=endpoint), **options)


@asynccontextmanager
async def served(app: ASGIApp, port: int = 0) -> AsyncGenerator[str, None]:
    """An application on a port; who connects before it is up waits in the socket."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            await task
            await server.lifespan.shutdown()  # A server that was forced to end forgets it.


@asynccontextmanager
async def connected(spec: ServerSpec) -> AsyncGenerator[ServerConnection, None]:
    """A connection, closed at the end."""
    connection = ServerConnection(spec, lambda: 7)
    connection.start()
    try:
        yield connection
    finally:
        await connection.close()


class _Waiting(logging.Handler):
    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self.seen = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.seen.set()


@contextmanager
def logged(text: str) -> Generator[asyncio.Event, None, None]:
    """An event that is set when a line with this text is logged by smg.mcp."""
    handler, logger = _Waiting(text), logging.getLogger("smg.mcp")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield handler.seen
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
