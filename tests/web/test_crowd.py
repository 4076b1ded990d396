"""Connections: how many, and that each says soon what it wants."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from smg.crowd import most_connections, new_protocol

SOON = 0.2


async def slow(request: Request) -> Response:
    await asyncio.sleep(SOON * 2)
    return PlainTextResponse("at last")


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()


@asynccontextmanager
async def listening(most: int | None = None) -> AsyncIterator[int]:
    """An application behind our protocol; its port."""
    app = Starlette(routes=[Route("/", slow), WebSocketRoute("/echo", echo)])
    config = uvicorn.Config(
        app, http=new_protocol(most, SOON), log_config=None, lifespan="off", ws="websockets-sansio"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


async def said(port: int, words: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words)
    heard = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return heard


async def test_who_says_nothing_or_only_half_is_hung_up_on() -> None:
    async with listening() as port:
        assert await said(port, b"") == b""
        assert await said(port, b"GET / HTTP/1.1\r\nhost: x\r\n") == b""


async def test_who_has_said_what_it_wants_may_wait_for_it() -> None:
    async with listening() as port:
        answer = await said(port, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert answer.endswith(b"at last")
        async with connect(f"ws://127.0.0.1:{port}/echo") as client:
            await asyncio.sleep(SOON * 2)
            await client.send("still here")
            assert await client.recv() == "still here"


async def test_one_too_many_is_told_and_the_others_stay() -> None:
    async with listening(most=1) as port:
        first = asyncio.create_task(
            said(port, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        )
        await asyncio.sleep(SOON / 2)
        assert b'"code": "overloaded"' in await said(port, b"")
        assert (await first).endswith(b"at last")


def test_half_of_the_files_are_for_clients() -> None:
    assert [most_connections(files) for files in (128, 65_536, None)] == [64, 32_768, None]


def test_a_process_lets_itself_open_as_many_files_as_it_may() -> None:
    program = "from smg.crowd import more_files; print(more_files())"
    limited = f'ulimit -S -n 100; ulimit -H -n 500; exec {sys.executable} -c "{program}"'
    told = subprocess.run(["sh", "-c", limited], capture_output=True, check=True, timeout=30)
    assert told.stdout == b"500\n"
