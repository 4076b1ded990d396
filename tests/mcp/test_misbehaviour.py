"""What a tool server can do wrong in a call over HTTP: each ends within its bound, and is told."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from tests.mcp.raw_server import INITIALIZED, tool
from tests.mcp.servers import connected, http_spec, served
from tests.mcp.test_request_servers import reply

BOUND = 20.0
TIMEOUT = 1.0
RESULT: dict[str, Any] = {"content": [{"type": "text", "text": "fine"}]}

Message = dict[str, Any]


async def hangs(message: Message) -> Response:
    await asyncio.Event().wait()
    raise NotImplementedError


async def drips(message: Message) -> Response:
    async def body() -> AsyncGenerator[bytes, None]:
        for byte in json.dumps(reply(message, RESULT)).encode():
            yield bytes([byte])
            await asyncio.sleep(0.1)

    return StreamingResponse(body(), media_type="application/json")


async def keeps_alive_for_ever(message: Message) -> Response:
    async def body() -> AsyncGenerator[bytes, None]:
        while True:
            yield b": still there\n\n"
            await asyncio.sleep(0.05)

    return StreamingResponse(body(), media_type="text/event-stream")


async def ends_in_the_middle(message: Message) -> Response:
    half = json.dumps(reply(message, RESULT))[:20]
    return PlainTextResponse(f"event: message\ndata: {half}", media_type="text/event-stream")


async def garbage(message: Message) -> Response:
    return PlainTextResponse("{not json", media_type="application/json")


async def wrong_id(message: Message) -> Response:
    return JSONResponse(reply({"id": 9000}, RESULT))


async def wrong_type(message: Message) -> Response:
    return PlainTextResponse("<html>", media_type="text/html")


async def wrong_shape(message: Message) -> Response:
    return JSONResponse(reply(message, {"content": "no list"}))


async def accepted(message: Message) -> Response:
    return PlainTextResponse("", status_code=202)


async def moved(message: Message) -> Response:
    return RedirectResponse("http://127.0.0.1:1/elsewhere", status_code=307)


async def broken(message: Message) -> Response:
    return PlainTextResponse("Traceback: key sk-very-secret", status_code=500)


async def floods(message: Message) -> Response:
    text = {"content": [{"type": "text", "text": "x" * 3_000_000}]}
    return JSONResponse(reply(message, text))


ENDS: list[tuple[Callable[[Message], Awaitable[Response]], str]] = [
    (hangs, "no result within 1 s"),
    (drips, "no result within 1 s"),
    (keeps_alive_for_ever, "no result within 1 s"),
    (ends_in_the_middle, ""),
    (garbage, ""),
    (wrong_id, "no result within 1 s"),
    (wrong_type, "content type"),
    (wrong_shape, ""),
    (accepted, "202"),
    (moved, "not followed"),
    (broken, "error response"),
]


def app(behaviour: Callable[[Message], Awaitable[Response]]) -> Starlette:
    async def answer(request: Request) -> Response:
        if request.method != "POST":
            return PlainTextResponse("", status_code=405)
        message = await request.json()
        match message["method"]:
            case "initialize":
                return JSONResponse(reply(message, INITIALIZED))
            case "tools/list":
                return JSONResponse(reply(message, {"tools": [tool("bad"), tool("good")]}))
            case "tools/call" if message["params"]["name"] == "bad":
                return await behaviour(message)
            case "tools/call":
                return JSONResponse(reply(message, RESULT))
        return PlainTextResponse("", status_code=202 if "id" not in message else 400)

    return Starlette(routes=[Route("/mcp", answer, methods=["GET", "POST", "DELETE"])])


@pytest.mark.parametrize(("behaviour", "why"), ENDS, ids=[ends[0].__name__ for ends in ENDS])
async def test_a_call_that_goes_wrong_over_http_ends_and_the_next_goes_well(
    behaviour: Callable[[Message], Awaitable[Response]], why: str
) -> None:
    async with (
        served(app(behaviour)) as url,
        connected(http_spec(f"{url}/mcp", timeout_s=BOUND)) as connection,
    ):
        await connection.tools()
        with anyio.fail_after(BOUND):
            bad = await connection.call("bad", {}, timeout_s=TIMEOUT)
            good = await connection.call("good", {})
    assert bad.error is not None
    assert why in bad.error.message
    assert "sk-very-secret" not in bad.error.message
    assert good.output == "fine"


async def test_a_flood_over_http_is_cut() -> None:
    async with (
        served(app(floods)) as url,
        connected(http_spec(f"{url}/mcp", max_output_bytes=1000)) as connection,
    ):
        flooded = await connection.call("bad", {})
    assert flooded.output is not None
    assert flooded.output.endswith("[truncated: 1000 of 3000000 bytes shown]")
