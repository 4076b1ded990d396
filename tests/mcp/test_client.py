"""One connection against real servers: processes, HTTP and SSE on this machine."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from smg.errors import ToolServerError
from smg.items import ToolError
from smg.mcp.client import ServerConnection
from smg.mcp.connection import State, Ties
from smg.mcp.spec import BreakerLimits, Command, Endpoint, OnChange, Secret, ServerSpec
from smg.mcp.transports import Streams, Traces
from smg.testing.tools import new_server
from smg.turn import ToolResult
from tests.mcp.raw_server import INITIALIZED, tool
from tests.mcp.servers import (
    connected,
    down_spec,
    example,
    http_spec,
    logged,
    raw_spec,
    served,
    stdio_spec,
)

BOUND = 20.0  # Enough for a process to start on a machine that is busy with other tests.

TRANSPORTS = ["stdio", "streamable", "sse"]


def text(result: ToolResult) -> str:
    assert result.error is None, result.error
    return result.output or ""


def error(result: ToolResult) -> ToolError:
    assert result.error is not None
    return result.error


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_tools_are_listed_and_called_over_every_transport(transport: str) -> None:
    async with example(transport) as spec, connected(spec) as connection:
        catalog = await connection.tools()
        result = await connection.call("add", {"a": 1, "b": 2})
    assert [tool.name for tool in catalog.tools][:4] == [
        "add",
        "multiply",
        "calculate",
        "current_time",
    ]
    assert result == ToolResult(output="3")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_calls_run_side_by_side(transport: str) -> None:
    async with example(transport, timeout_s=BOUND) as spec, connected(spec) as connection:
        together = [connection.call("meet", {"place": "here", "people": 3}) for _ in range(3)]
        results = await asyncio.gather(*together)
    assert results == [ToolResult(output="met")] * 3


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_call_past_its_deadline_is_an_error_and_the_server_is_told(transport: str) -> None:
    async with example(transport, timeout_s=BOUND) as spec, connected(spec) as connection:
        await connection.tools()
        late = await connection.call("hang", {}, timeout_s=0.3)
        told = await connection.call("hang_cancelled", {})
    assert late.error == ToolError(
        kind="mcp_protocol_error", message="'hang' gave no result within 0.3 s and was cancelled"
    )
    assert text(told) == "cancelled"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cancelled_call_is_cancelled_on_the_server(transport: str) -> None:
    async with example(transport, timeout_s=BOUND) as spec, connected(spec) as connection:
        hanging = asyncio.create_task(connection.call("hang", {}))
        assert text(await connection.call("hang_began", {})) == "hanging"
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert text(await connection.call("hang_cancelled", {})) == "cancelled"


async def test_a_failing_tool_is_a_result() -> None:
    async with example("streamable") as spec, connected(spec) as connection:
        result = await connection.call("boom", {})
    assert error(result).kind == "mcp_tool_execution_error"
    assert "boom" in error(result).message


async def test_an_unknown_tool_is_a_result() -> None:
    async with example("streamable") as spec, connected(spec) as connection:
        assert "nope" in error(await connection.call("nope", {})).message


async def test_a_protocol_error_keeps_its_code_and_shows_no_secret() -> None:
    spec = raw_spec("refuses", secrets=frozenset({"sk-very-secret"}))
    async with connected(spec) as connection:
        result = await connection.call("echo", {})
    assert result.error == ToolError(
        kind="mcp_protocol_error", message="no, not with ***", code=-32050
    )


async def test_output_over_the_limit_is_cut_with_a_mark() -> None:
    async with example("streamable", max_output_bytes=1024) as spec, connected(spec) as connection:
        result = await connection.call("flood", {"size": 100_000})
    assert text(result) == "x" * 1024 + "... [truncated: 1024 of 100000 bytes shown]"


@pytest.mark.parametrize("transport", ["stdio", "streamable"])
async def test_output_larger_than_the_sdk_takes_by_default_comes_through(transport: str) -> None:
    size = 2 * 1024 * 1024
    options = {"max_output_bytes": size}
    async with example(transport, **options) as spec, connected(spec) as connection:
        assert len(text(await connection.call("flood", {"size": size}))) == size


async def test_pictures_are_named_and_structured_content_is_told_once() -> None:
    async with example("streamable") as spec, connected(spec) as connection:
        picture = await connection.call("image", {})
        structured = await connection.call("structured", {})
    assert text(picture) == "[image image/png, 8 bytes]"
    assert "".join(text(structured).split()) == '{"celsius":21.5}'


async def test_a_crash_in_a_call_is_told_at_once_and_the_server_comes_back() -> None:
    async with connected(stdio_spec(timeout_s=60)) as connection:
        with anyio.fail_after(BOUND):
            crashed = await connection.call("crash", {})
        assert text(await connection.call("add", {"a": 1, "b": 1})) == "2"
    assert error(crashed).kind == "mcp_protocol_error"
    assert "is not known" in error(crashed).message


async def test_calls_beside_a_crash_end_too() -> None:
    async with connected(stdio_spec(timeout_s=60)) as connection:
        hanging = asyncio.create_task(connection.call("hang", {}))
        await connection.call("hang_began", {})
        await connection.call("crash", {})
        with anyio.fail_after(BOUND):
            assert "was lost" in error(await hanging).message


async def test_a_killed_process_is_replaced() -> None:
    async with connected(stdio_spec(idempotent_tools=frozenset({"pid"}))) as connection:
        first = int(text(await connection.call("pid", {})))
        os.kill(first, signal.SIGKILL)
        second = int(text(await connection.call("pid", {})))
    assert first != second


async def test_a_process_killed_while_idle_is_replaced_without_being_asked() -> None:
    async with connected(stdio_spec()) as connection:
        pid = int(text(await connection.call("pid", {})))
        with logged("down: the connection was lost") as lost, logged("ready") as ready:
            os.kill(pid, signal.SIGKILL)
            with anyio.fail_after(BOUND):
                await lost.wait()
                await ready.wait()
        assert connection.state is State.READY


@asynccontextmanager
async def http_process() -> AsyncGenerator[tuple[asyncio.subprocess.Process, str], None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "smg.testing.tools", "--http", "0", "--misbehave"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # Or it warns when collected.


async def test_a_server_killed_in_a_call_over_http_is_noticed_at_once() -> None:
    async with (
        http_process() as (process, url),
        connected(http_spec(url, timeout_s=60)) as connection,
    ):
        hanging = asyncio.create_task(connection.call("hang", {}))
        await connection.call("hang_began", {})
        process.kill()
        with anyio.fail_after(BOUND):
            assert "was lost" in error(await hanging).message


async def test_who_asks_for_a_server_that_is_down_makes_it_try_again() -> None:
    script = Path(__file__).with_name("raw_server.py")
    missing = raw_spec("well", transport=Command(program="./not-yet-there"))
    async with connected(missing) as connection:
        with pytest.raises(ToolServerError, match=r"'raw' cannot be reached: .*not-yet-there"):
            await connection.tools()
        connection.spec = replace(
            missing, transport=Command(program=sys.executable, args=(str(script), "well"))
        )
        with anyio.fail_after(BOUND):
            assert text(await connection.call("echo", {})) == "echo"


@pytest.mark.parametrize("behaviour", ["silent", "no_list"])
async def test_a_server_that_hangs_while_connecting_is_down_after_the_deadline(
    behaviour: str,
) -> None:
    async with connected(raw_spec(behaviour, connect_timeout_s=0.5)) as connection:
        with anyio.fail_after(BOUND), pytest.raises(ToolServerError):
            await connection.tools()
        with anyio.fail_after(BOUND):
            assert "cannot be reached" in error(await connection.call("echo", {})).message


async def test_closing_does_not_wait_for_a_server_that_does_not_answer() -> None:
    with anyio.fail_after(BOUND):
        async with connected(raw_spec("silent", connect_timeout_s=60)):
            pass


async def test_closing_does_not_wait_for_the_pause_between_attempts() -> None:
    attempts: list[str] = []
    hanging = asyncio.Event()

    @asynccontextmanager
    async def refuse(spec: ServerSpec, traces: Traces) -> AsyncGenerator[Streams, None]:
        attempts.append(spec.label)
        if len(attempts) < 7:
            raise ConnectionRefusedError
        hanging.set()
        await asyncio.Event().wait()
        yield NotImplemented

    patient = BreakerLimits(failures=100)
    spec = down_spec(connect_timeout_s=60, breaker=patient)
    connection = ServerConnection(spec, lambda: 7, Ties(connect=refuse))
    connection.start()
    with anyio.fail_after(BOUND):
        for _ in range(6):  # By now the pause is the longest; being asked cuts it short.
            with pytest.raises(ToolServerError):
                await connection.tools()
        asking = asyncio.create_task(connection.call("add", {}))
        await hanging.wait()
        await connection.close()
        assert "cannot be reached" in error(await asking).message
    assert connection.state is State.DOWN


async def test_a_server_that_ignores_discovery_is_reached_at_the_second_attempt() -> None:
    async with connected(raw_spec("deaf_to_discovery", connect_timeout_s=1)) as connection:
        with logged("ready") as ready, anyio.fail_after(BOUND):
            await ready.wait()
        assert text(await connection.call("echo", {})) == "echo"


async def test_garbage_between_the_answers_does_no_harm() -> None:
    async with connected(raw_spec("garbage")) as connection:
        assert text(await connection.call("echo", {})) == "echo"


async def test_a_line_without_end_is_the_end_of_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("smg.mcp.stdio.MAX_LINE_BYTES", 1_000_000)
    async with connected(raw_spec("endless_line", timeout_s=60)) as connection:
        with logged("it wrote a line of more than 1000000 bytes") as told:
            with anyio.fail_after(BOUND):
                assert "was lost" in error(await connection.call("echo", {})).message
                await told.wait()


async def test_a_server_that_drips_is_cut_off_at_the_deadline() -> None:
    async with connected(raw_spec("drips", timeout_s=0.5)) as connection:
        await connection.tools()
        with anyio.fail_after(BOUND):
            assert "no result within 0.5 s" in error(await connection.call("echo", {})).message


async def test_an_answer_to_somebody_else_is_no_answer() -> None:
    async with connected(raw_spec("wrong_id", timeout_s=0.5)) as connection:
        await connection.tools()
        with anyio.fail_after(BOUND):
            assert "no result within 0.5 s" in error(await connection.call("echo", {})).message


async def test_children_of_a_process_are_killed_with_it() -> None:
    async with connected(raw_spec("parent")) as connection:
        child = int(text(await connection.call("echo", {})))
        os.kill(child, 0)
        began = anyio.current_time()
    assert anyio.current_time() - began < BOUND
    with anyio.fail_after(BOUND):
        while is_running(child):
            await anyio.lowlevel.checkpoint()


def is_running(pid: int) -> bool:
    """Whether a process runs; a dead child of nobody may wait for init to notice."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


async def test_progress_is_told_to_who_asked_and_shown_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "smg.mcp")
    told: list[tuple[str | None, float | None]] = []
    spec = raw_spec("progresses", secrets=frozenset({"sk-very-secret"}))
    async with connected(spec) as connection:
        await connection.call("echo", {}, progress=lambda *said: told.append(said))
    assert told == [("*** rows", 0.75)]
    assert connection.progress == 0.75
    assert "sk-very-secret" not in caplog.text


@pytest.mark.parametrize(
    ("question", "refusal"),
    [
        ("elicit", "Elicitation not supported"),
        ("sample", "Sampling not supported"),
        ("roots", "List roots not supported"),
    ],
)
async def test_questions_of_a_server_are_refused_and_the_call_goes_on(
    question: str, refusal: str
) -> None:
    async with connected(raw_spec("asks", timeout_s=BOUND)) as connection:
        assert refusal in text(await connection.call(question, {}))


async def test_a_server_that_only_fails_is_left_alone_for_a_while() -> None:
    limits = BreakerLimits(failures=2, pause_s=600)
    spec = raw_spec("silent_calls", timeout_s=0.2, breaker=limits)
    async with connected(spec) as connection:
        await connection.tools()
        for _ in range(2):
            assert "gave no result" in error(await connection.call("echo", {})).message
        refused = error(await connection.call("echo", {}))
        assert connection.breaker == "open"
        assert len((await connection.tools()).tools) == 1  # What is known is told all the same.
    assert (
        "was not called: 'raw' has failed 2 times in a row and is not asked for" in refused.message
    )


async def test_a_server_that_never_comes_up_is_not_waited_for_each_time() -> None:
    limits = BreakerLimits(failures=2, pause_s=600)
    spec = raw_spec("silent", connect_timeout_s=0.3, breaker=limits)
    async with connected(spec) as connection:
        for _ in range(2):
            with pytest.raises(ToolServerError):
                await connection.tools()
        with anyio.fail_after(0.2), pytest.raises(ToolServerError, match="not asked for"):
            await connection.tools()


@pytest.mark.parametrize("policy", ["hold", "block"])
async def test_a_tool_that_changes_after_it_was_seen_waits_for_approval(policy: str) -> None:
    on_change: OnChange = "hold" if policy == "hold" else "block"
    async with connected(raw_spec("changes", on_change=on_change)) as connection:
        with logged("its tools changed") as changed, anyio.fail_after(BOUND):
            await connection.call("echo", {})
            await changed.wait()
        refused = error(await connection.call("echo", {}))
        if policy == "hold":
            assert (await connection.tools()).tools == ()
            assert "waits for approval" in refused.message
        else:
            with pytest.raises(ToolServerError, match="not as they were approved"):
                await connection.tools()
            assert "not as they were approved" in refused.message
        await connection.approve()
        assert (await connection.tools()).tools[0].description == "version 1"
        assert text(await connection.call("echo", {})) == "echo"


async def test_a_list_without_end_ends() -> None:
    async with connected(raw_spec("endless_pages")) as connection:
        assert len((await connection.tools()).tools) == 100


async def test_the_last_words_of_a_process_explain_why_it_is_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    spec = raw_spec("leaves", secrets=frozenset({"sk-very-secret"}))
    async with connected(spec) as connection:
        with pytest.raises(ToolServerError, match=r"no licence for key \*\*\*"):
            await connection.tools()
    assert "MCP server raw: no licence for key ***" in caplog.text
    assert "sk-very-secret" not in caplog.text


async def test_the_list_is_read_again_when_a_server_of_today_says_it_changed() -> None:
    async with connected(stdio_spec()) as connection:
        with logged("its tools changed") as changed, anyio.fail_after(BOUND):
            assert text(await connection.call("grow", {})) == "grown"
            await changed.wait()
        assert "grown" in [tool.name for tool in (await connection.tools()).tools]


async def test_the_list_is_read_again_when_a_server_of_2025_says_it_changed() -> None:
    async with connected(raw_spec("changes")) as connection:
        before = (await connection.tools()).digest
        with logged("its tools changed") as changed, anyio.fail_after(BOUND):
            await connection.call("echo", {})
            await changed.wait()
        after = await connection.tools()
    assert after.tools[0].description == "version 1"
    assert after.digest != before


async def test_a_server_that_hangs_for_good_is_replaced(tmp_path: Path) -> None:
    script = Path(__file__).with_name("raw_server.py")
    arguments = (str(script), "stops_listing", str(tmp_path / "hung"))
    command = Command(program=sys.executable, args=arguments)
    spec = raw_spec("", transport=command, connect_timeout_s=2)
    async with connected(spec) as connection:
        await connection.tools()
        with logged("down: it did not answer within 2 s") as down:
            assert "0.2 s" in error(await connection.call("echo", {}, timeout_s=0.2)).message
            with anyio.fail_after(BOUND):
                await down.wait()
        assert text(await connection.call("echo", {})) == "echo"


async def test_no_more_calls_run_at_once_than_allowed() -> None:
    async with example("streamable", max_concurrency=1) as spec, connected(spec) as connection:
        await connection.tools()
        hanging = asyncio.create_task(connection.call("hang", {}))
        refused = asyncio.create_task(connection.call("hang_began", {}, timeout_s=0.3))
        assert "was not called" in error(await refused).message
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert text(await connection.call("hang_began", {})) == "hanging"


async def test_a_process_gets_few_variables_and_no_key_of_the_gateway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GATEWAY_KEY", "sk-gateway")
    monkeypatch.setenv("LANG", "C.UTF-8")
    command = stdio_spec().transport
    assert isinstance(command, Command)
    spec = stdio_spec(transport=replace(command, env={"TOKEN": Secret("given")}))
    async with connected(spec) as connection:
        seen = text(await connection.call("environment", {}))
    assert "sk-gateway" not in seen
    assert '"TOKEN": "given"' in seen
    assert '"LANG": "C.UTF-8"' in seen
    assert '"PATH"' in seen


async def test_headers_reach_the_server_and_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[tuple[str, str | None]] = []

    async def elsewhere(request: Request) -> Response:
        seen.append((request.url.path, request.headers.get("x-key")))
        if request.url.path == "/moved":
            return RedirectResponse("/canary", status_code=307)
        return PlainTextResponse("sk-very-secret is not allowed", status_code=401)

    routes = [Route("/{path:path}", elsewhere, methods=["GET", "POST", "DELETE"])]
    async with served(Starlette(routes=routes)) as url:
        endpoint = Endpoint(
            url=Secret(f"{url}/moved?key=sk-query-secret"),
            headers={"X-Key": Secret("sk-very-secret")},
        )
        async with connected(http_spec("", transport=endpoint)) as connection:
            with pytest.raises(ToolServerError, match="HTTP 307") as raised:
                await connection.tools()
            shown = f"{connection.spec!r} {connection.error} {raised.value}"
    assert ("/moved", "sk-very-secret") in seen
    assert all(path != "/canary" for path, _ in seen)
    smg_lines = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("smg"))
    for secret in ("sk-very-secret", "sk-query-secret"):
        assert secret not in shown
        assert secret not in smg_lines
    assert "sk-very-secret" not in caplog.text


@pytest.mark.parametrize("protocol", ["streamable", "sse"])
async def test_a_refused_key_is_told_with_its_status(protocol: str) -> None:
    async def refuse(request: Request) -> Response:
        return PlainTextResponse("who are you?", status_code=401)

    app = Starlette(routes=[Route("/mcp", refuse, methods=["GET", "POST"])])
    async with served(app) as url:
        endpoint = Endpoint(
            url=Secret(f"{url}/mcp"), protocol="sse" if protocol == "sse" else "streamable"
        )
        async with connected(http_spec("", transport=endpoint)) as connection:
            with pytest.raises(ToolServerError, match="401"):
                await connection.tools()


async def test_a_server_nobody_runs_is_down() -> None:
    async with connected(down_spec()) as connection:
        with (
            anyio.fail_after(BOUND),
            pytest.raises(ToolServerError, match="'down' cannot be reached"),
        ):
            await connection.tools()
        assert connection.state is not State.READY


async def test_a_closed_connection_refuses_calls() -> None:
    async with connected(raw_spec("well")) as connection:
        await connection.tools()
    assert "cannot be reached" in error(await connection.call("echo", {})).message


async def test_a_message_too_large_for_sse_is_an_error_and_not_the_end() -> None:
    async with example("sse", timeout_s=60) as spec, connected(spec) as connection:
        with anyio.fail_after(BOUND):
            flooded = await connection.call("flood", {"size": 2 * 1024 * 1024})
            assert "was lost" in error(flooded).message
            assert text(await connection.call("add", {"a": 1, "b": 1})) == "2"


async def test_a_restarted_http_server_is_found_again_at_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with contextlib.AsyncExitStack() as stack:
        async with served(new_server().streamable_http_app(), port) as url:
            spec = http_spec(f"{url}/mcp", idempotent_tools=frozenset({"add"}))
            connection = await stack.enter_async_context(connected(spec))
            assert text(await connection.call("add", {"a": 1, "b": 1})) == "2"
        async with served(new_server().streamable_http_app(), port):
            with anyio.fail_after(BOUND):
                assert text(await connection.call("add", {"a": 1, "b": 2})) == "3"


async def test_a_session_the_server_has_forgotten_is_opened_anew() -> None:
    forgotten: list[str] = []

    async def forgetful(request: Request) -> Response:
        """A server of 2025 that loses its first session."""
        if request.method != "POST":
            return PlainTextResponse("", status_code=405)
        message = await request.json()
        if message["method"] == "initialize":
            headers = {"mcp-session-id": f"session-{len(forgotten)}"}
            return JSONResponse(reply(message, INITIALIZED), headers=headers)
        if message["method"] == "tools/call" and not forgotten:
            forgotten.append(request.headers["mcp-session-id"])
            return PlainTextResponse("who?", status_code=404)
        if message["method"] == "tools/list":
            return JSONResponse(reply(message, {"tools": [tool("echo")]}))
        if message["method"] == "tools/call":
            said = request.headers["mcp-session-id"]
            return JSONResponse(reply(message, {"content": [{"type": "text", "text": said}]}))
        return PlainTextResponse("", status_code=202 if "id" not in message else 400)

    app = Starlette(routes=[Route("/mcp", forgetful, methods=["GET", "POST", "DELETE"])])
    async with served(app) as url, connected(http_spec(f"{url}/mcp")) as connection:
        assert "is not known" in error(await connection.call("echo", {})).message
        assert text(await connection.call("echo", {})) == "session-1"
    assert forgotten == ["session-0"]


def reply(request: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request["id"], "result": result}
