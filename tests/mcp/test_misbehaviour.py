"""What a tool server can do wrong: each ends within its bound and is told, and the next call works.

The twelve misbehaviours of docs/mcp.md are one table, on stdio and over HTTP.
"""

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
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

from smg.mcp.client import ServerConnection
from smg.mcp.spec import Command
from smg.turn import ToolResult
from tests.mcp.raw_server import INITIALIZED, tool
from tests.mcp.servers import RAW_SERVER, connected, http_spec, logged, raw_spec, served
from tests.mcp.test_request_servers import reply

BOUND = 20.0
RESULT: dict[str, Any] = {"content": [{"type": "text", "text": "fine"}]}

Message = dict[str, Any]
Behaviour = Callable[[Message], Awaitable[Response]]


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


async def forgets(message: Message) -> Response:
    return PlainTextResponse("who?", status_code=404)


async def describes_at_length(message: Message) -> Response:
    tools = [tool("bad", "d" * 1_000_000), tool("good")]
    return JSONResponse(reply(message, {"tools": tools}))


async def changes(message: Message) -> Response:
    """Answer, after the word that the list of tools is another one now."""
    word = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    said = "".join(
        f"event: message\ndata: {json.dumps(told)}\n\n" for told in (word, reply(message, RESULT))
    )
    return PlainTextResponse(said, media_type="text/event-stream")


def listing() -> Behaviour:
    """Each list with another description."""
    numbers = itertools.count()

    async def listed(message: Message) -> Response:
        tools = [tool("bad", f"version {next(numbers)}"), tool("good")]
        return JSONResponse(reply(message, {"tools": tools}))

    return listed


def once(behaviour: Behaviour) -> Behaviour:
    """A behaviour that is well from its second time on."""
    times = itertools.count()

    async def first(message: Message) -> Response:
        return await (WELL[message["method"]] if next(times) else behaviour)(message)

    return first


async def _initialized(message: Message) -> Response:
    headers = {"mcp-session-id": "a-session"}
    return JSONResponse(reply(message, INITIALIZED), headers=headers)


async def _listed(message: Message) -> Response:
    return JSONResponse(reply(message, {"tools": [tool("bad"), tool("good")]}))


async def _unknown(message: Message) -> Response:
    return PlainTextResponse("", status_code=202 if "id" not in message else 400)


async def _called(message: Message) -> Response:
    return JSONResponse(reply(message, RESULT))


WELL: dict[str, Behaviour] = {
    "server/discover": _unknown,
    "initialize": _initialized,
    "tools/list": _listed,
    "tools/call": _called,
}


def server(**bad: Behaviour) -> Starlette:
    """A server of 2025 with this behaviour for these methods; calls of `good` go well."""

    async def answer(request: Request) -> Response:
        if request.method != "POST":
            return PlainTextResponse("", status_code=405)
        message = await request.json()
        method = message["method"]
        is_good = method == "tools/call" and message["params"]["name"] == "good"
        behave = WELL.get(method, _unknown) if is_good else {**WELL, **bad}.get(method, _unknown)
        return await behave(message)

    return Starlette(routes=[Route("/mcp", answer, methods=["GET", "POST", "DELETE"])])


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One misbehaviour on both transports, and what is told of the call in which it happens."""

    stdio: str | None = None
    """What the process does; `None`: only HTTP can."""
    stdio_ends: str = ""
    http: Callable[[], Starlette]
    http_ends: str
    options: dict[str, Any] = field(default_factory=dict)
    """The server's entry, where its bounds are not the usual ones."""
    in_connecting: bool = False
    """Whether it is before any call, and once."""


def calls(behaviour: Behaviour) -> Callable[[], Starlette]:
    return lambda: server(**{"tools/call": behaviour})


LATE = "no result within 0.4 s"
QUICK = {"timeout_s": 0.4}
SMALL = {"max_output_bytes": 1000, "timeout_s": BOUND}
CUT = "[truncated: 1000 of 3000000 bytes shown]"
TWELVE: dict[str, Case] = {
    "hang on connect": Case(
        stdio="silent",
        stdio_ends="it did not answer within 1 s",
        http=lambda: server(**{"server/discover": once(hangs)}),
        http_ends="it did not answer within 1 s",
        options={"connect_timeout_s": 1, "timeout_s": BOUND},
        in_connecting=True,
    ),
    "hang on list": Case(
        stdio="no_list",
        stdio_ends="it did not answer within 1 s",
        http=lambda: server(**{"tools/list": once(hangs)}),
        http_ends="it did not answer within 1 s",
        options={"connect_timeout_s": 1, "timeout_s": BOUND},
        in_connecting=True,
    ),
    "hang on call": Case(
        stdio="silent_calls",
        stdio_ends=LATE,
        http=calls(hangs),
        http_ends=LATE,
        options=QUICK,
    ),
    "crash mid-call": Case(
        stdio="crashes",
        stdio_ends="was lost during the call (its process ended with status 3)",
        http=calls(ends_in_the_middle),
        http_ends="SSE stream ended without a response",
        options={"timeout_s": BOUND},
    ),
    "drip": Case(stdio="drips", stdio_ends=LATE, http=calls(drips), http_ends=LATE, options=QUICK),
    "flood": Case(stdio="floods", stdio_ends=CUT, http=calls(floods), http_ends=CUT, options=SMALL),
    "garbage JSON": Case(
        stdio="says_garbage",
        stdio_ends=LATE,
        http=calls(garbage),
        http_ends="parse",
        options=QUICK,
    ),
    "wrong id": Case(
        stdio="wrong_id", stdio_ends=LATE, http=calls(wrong_id), http_ends=LATE, options=QUICK
    ),
    "1 MB description": Case(
        stdio="describes_at_length",
        stdio_ends="bad",
        http=lambda: server(**{"tools/list": describes_at_length}),
        http_ends="fine",
        options={"timeout_s": BOUND},
    ),
    "tool list that changes": Case(
        stdio="changes",
        stdio_ends="bad",
        http=lambda: server(**{"tools/call": changes, "tools/list": listing()}),
        http_ends="fine",
        options={"timeout_s": BOUND, "on_change": "hold"},
    ),
    "session lost": Case(
        http=calls(forgets),
        http_ends="was lost during the call (Session terminated)",
        options={"timeout_s": BOUND},
    ),
    "redirect": Case(http=calls(moved), http_ends="not followed", options={"timeout_s": BOUND}),
}
"""Each on stdio and over HTTP; a process has no sessions to lose, and cannot redirect."""

EACH = [
    (name, transport)
    for name, case in TWELVE.items()
    for transport in ("stdio", "http")
    if transport == "http" or case.stdio is not None
]


@asynccontextmanager
async def misbehaving(
    case: Case, transport: str, folder: Path
) -> AsyncGenerator[ServerConnection, None]:
    """A connection to a server with this fault."""
    async with AsyncExitStack() as stack:
        if transport == "http":
            url = await stack.enter_async_context(served(case.http()))
            spec = http_spec(f"{url}/mcp", **case.options)
        elif case.in_connecting:
            arguments = (str(RAW_SERVER), "once", str(folder / "lived"), case.stdio or "")
            command = Command(program=sys.executable, args=arguments)
            spec = raw_spec("", transport=command, **case.options)
        else:
            spec = raw_spec(case.stdio or "", **case.options)
        yield await stack.enter_async_context(connected(spec))


def said(result: ToolResult) -> str:
    return (result.output or "") if result.error is None else result.error.message


async def well_again(connection: ServerConnection) -> str:
    """What the next call says; a server that hung in connecting may need one more attempt."""
    for _ in range(5):
        result = await connection.call("good", {}, timeout_s=BOUND)
        if result.error is None:
            break
    return said(result)


@pytest.mark.parametrize(("name", "transport"), EACH, ids=[f"{n} on {t}" for n, t in EACH])
async def test_each_misbehaviour_ends_within_its_bound_and_the_next_call_goes_well(
    name: str, transport: str, tmp_path: Path
) -> None:
    case = TWELVE[name]
    async with misbehaving(case, transport, tmp_path) as connection:
        if not case.in_connecting:
            await connection.tools()
        with anyio.fail_after(BOUND):
            bad = said(await connection.call("bad", {}))
            good = await well_again(connection)
    assert (case.stdio_ends if transport == "stdio" else case.http_ends) in bad
    assert good == ("good" if transport == "stdio" else "fine")


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_description_of_a_megabyte_is_cut_with_a_mark(
    transport: str, tmp_path: Path
) -> None:
    case = TWELVE["1 MB description"]
    async with misbehaving(case, transport, tmp_path) as connection:
        long, short = (await connection.tools()).tools
    mark = "... [truncated: 4096 of 1000000 characters shown]"
    assert (long.description, short.description) == ("d" * 4096 + mark, "")


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_tool_that_changed_in_a_call_is_held_back_and_no_other(
    transport: str, tmp_path: Path
) -> None:
    case = TWELVE["tool list that changes"]
    async with misbehaving(case, transport, tmp_path) as connection:
        await connection.tools()
        with logged("its tools changed") as changed, anyio.fail_after(BOUND):
            await connection.call("bad", {})
            await changed.wait()
        held = [line.split(":")[0] for line in (await connection.tools()).left_out]
        name = "echo" if transport == "stdio" else "bad"
        assert held == [name]
        assert "waits for approval" in said(await connection.call(name, {}))


MORE: list[tuple[Behaviour, str]] = [
    (keeps_alive_for_ever, "no result within 1 s"),
    (wrong_type, "content type"),
    (wrong_shape, ""),
    (accepted, "202"),
    (broken, "error response"),
]
"""What only HTTP can do wrong beside them."""


@pytest.mark.parametrize(("behaviour", "why"), MORE, ids=[more[0].__name__ for more in MORE])
async def test_a_call_that_goes_wrong_over_http_ends_and_the_next_goes_well(
    behaviour: Behaviour, why: str
) -> None:
    app = server(**{"tools/call": behaviour})
    async with (
        served(app) as url,
        connected(http_spec(f"{url}/mcp", timeout_s=BOUND)) as connection,
    ):
        await connection.tools()
        with anyio.fail_after(BOUND):
            bad = await connection.call("bad", {}, timeout_s=1.0)
            good = await connection.call("good", {})
    assert bad.error is not None
    assert why in bad.error.message
    assert "sk-very-secret" not in bad.error.message
    assert good.output == "fine"
