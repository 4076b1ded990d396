"""All servers together, as the agent and the endpoints use them."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from smg.errors import ToolServerError
from smg.items import ToolError
from smg.mcp.config import load
from smg.mcp.connection import State
from smg.mcp.spec import ServerSpec
from smg.mcp.toolbox import Reloaded, ServerStatus, Toolbox
from smg.mcp.transports import find_program
from smg.turn import ToolResult
from tests.mcp.servers import down_spec, logged, raw_spec, stdio_spec

BOUND = 20.0
ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def opened(*specs: ServerSpec) -> AsyncGenerator[Toolbox, None]:
    toolbox = Toolbox(specs, lambda: 7)
    await toolbox.start()
    try:
        yield toolbox
    finally:
        await toolbox.close()


async def test_the_example_configuration_works_as_it_stands() -> None:
    async with opened(*load(ROOT / "mcp-config.example.json", {}).servers) as toolbox:
        tools = await toolbox.tools("calculator")
        result = await toolbox.call("calculator", "add", '{"a": 1, "b": 2}')
    assert [tool.name for tool in tools] == ["add", "multiply", "calculate", "current_time"]
    assert toolbox.default_labels == ("calculator",)
    assert result == ToolResult(output="3")


async def test_a_server_that_is_down_stops_nobody() -> None:
    async with opened(down_spec(), raw_spec("well")) as toolbox:
        assert toolbox.labels == ("down", "raw")
        assert await toolbox.call("raw", "echo", "{}") == ToolResult(output="echo")
        with anyio.fail_after(20), pytest.raises(ToolServerError, match="'down' cannot be reached"):
            await toolbox.tools("down")
        result = await toolbox.call("down", "echo", "{}")
    assert result.error is not None
    assert result.error.kind == "mcp_protocol_error"


async def test_a_required_server_that_is_down_stops_the_start() -> None:
    toolbox = Toolbox([raw_spec("well"), down_spec(required=True)], lambda: 7)
    with pytest.raises(ToolServerError, match="required MCP server 'down' cannot be reached"):
        await toolbox.start()
    assert [status.state for status in toolbox.statuses()] == [State.DOWN, State.DOWN]


async def test_servers_that_hang_cost_one_deadline_and_not_one_each() -> None:
    hanging = [raw_spec("silent", label=f"s{i}", connect_timeout_s=2.0) for i in range(4)]
    with anyio.fail_after(7.5):
        async with opened(*hanging):
            pass


async def test_only_what_the_configuration_allows_is_offered_and_called() -> None:
    async with opened(stdio_spec(allowed_tools=frozenset({"add"}))) as toolbox:
        tools = await toolbox.tools("example")
        refused = await toolbox.call("example", "multiply", '{"a": 1, "b": 2}')
    assert [tool.name for tool in tools] == ["add"]
    assert refused.error == ToolError(
        kind="mcp_protocol_error", message="Server 'example' offers no tool 'multiply'"
    )


async def test_a_tool_goes_by_its_alias_only() -> None:
    aliases = {"add": "sum", "boom": "multiply"}
    spec = stdio_spec(aliases=aliases, allowed_tools=frozenset({"add", "multiply", "boom"}))
    async with opened(spec) as toolbox:
        tools = await toolbox.tools("example")
        by_alias = await toolbox.call("example", "sum", '{"a": 1, "b": 2}')
        by_name = await toolbox.call("example", "add", '{"a": 1, "b": 2}')
        (status,) = toolbox.statuses()
    assert [tool.name for tool in tools] == ["sum", "multiply"]
    assert tools[1].description == "Fail."
    assert by_alias == ToolResult(output="3")
    assert by_name.error is not None
    assert status.left_out == ("multiply: the configuration gives this name to another tool",)


@pytest.mark.parametrize(
    "arguments",
    ["", "null", "[]", '"{}"', '{"a": 1', '{"a": NaN}', "[" * 100_000, '{"a":"\\ud800"}'],
)
async def test_arguments_that_are_no_object_are_told_to_the_model(arguments: str) -> None:
    async with opened(raw_spec("well")) as toolbox:
        result = await toolbox.call("raw", "echo", arguments)
        assert await toolbox.call("raw", "echo", "{}") == ToolResult(output="echo")
    assert result.error is not None
    assert result.error.code == -32602
    assert result.error.message.startswith("The arguments must be a JSON object: ")


async def test_a_server_nobody_configured() -> None:
    async with opened(raw_spec("well")) as toolbox:
        with pytest.raises(ToolServerError, match="no tool server 'x'; configured: raw"):
            await toolbox.tools("x")
        with pytest.raises(ToolServerError):
            toolbox.spec("x")
        result = await toolbox.call("x", "echo", "{}")
    assert result.error is not None
    assert "no tool server 'x'" in result.error.message


async def test_the_status_tells_what_is_there() -> None:
    async with opened(raw_spec("well")) as toolbox:
        (ready,) = toolbox.statuses()
    (closed,) = toolbox.statuses()
    assert ready == ServerStatus(
        label="raw",
        address=sys.executable,
        state=State.READY,
        changed_at=7,
        error=None,
        required=False,
        default=False,
        tools=("echo",),
        left_out=(),
        definitions_hash=ready.definitions_hash,
        internal=False,
        breaker="closed",
        running=0,
        progress=None,
        questions=0,
    )
    assert len(ready.definitions_hash) == 64
    assert closed == replace(ready, state=State.DOWN, error="it was closed")


async def test_a_blocked_server_is_shown_as_down() -> None:
    async with opened(raw_spec("changes", on_change="block")) as toolbox:
        with logged("its tools changed") as changed, anyio.fail_after(BOUND):
            await toolbox.call("raw", "echo", "{}")
            await changed.wait()
        (blocked,) = toolbox.statuses()
        assert (await toolbox.reload([toolbox.spec("raw")])).kept == ("raw",)
        (approved,) = toolbox.statuses()
    assert blocked.state is State.DOWN
    assert blocked.error is not None
    assert "not as they were approved" in blocked.error
    assert (approved.state, approved.error) == (State.READY, None)


async def test_a_new_configuration_touches_only_what_it_changes() -> None:
    specs = [stdio_spec(label=label) for label in ("same", "other", "gone")]
    async with opened(*specs) as toolbox:
        pids = [await pid(toolbox, label) for label in ("same", "other", "gone")]
        changed = replace(specs[1], timeout_s=29)
        reloaded = await toolbox.reload([raw_spec("well", label="new"), specs[0], changed])
        assert toolbox.labels == ("new", "same", "other")
        assert await pid(toolbox, "same") == pids[0]
        assert await pid(toolbox, "other") != pids[1]
        assert await toolbox.call("new", "echo", "{}") == ToolResult(output="echo")
        gone = await toolbox.call("gone", "pid", "{}")
    assert reloaded == Reloaded(
        added=("new",), removed=("gone",), changed=("other",), kept=("same",)
    )
    assert gone.error is not None
    assert "no tool server 'gone'" in gone.error.message


async def pid(toolbox: Toolbox, label: str) -> int:
    result = await toolbox.call(label, "pid", "{}")
    return int(result.output or "0")


async def test_calls_under_way_end_before_their_server_goes() -> None:
    spec = stdio_spec(timeout_s=BOUND)
    async with opened(spec) as toolbox:
        await toolbox.call("example", "pid", "{}")
        meet = '{"place": "p", "people": 2}'
        first = asyncio.create_task(toolbox.call("example", "meet", meet))
        hanging = asyncio.create_task(toolbox.call("example", "hang", "{}", timeout_s=2))
        await toolbox.call("example", "hang_began", "{}")
        second = asyncio.create_task(toolbox.call("example", "meet", meet))
        await anyio.lowlevel.checkpoint()
        assert (await toolbox.reload([])).removed == ("example",)
        with anyio.fail_after(BOUND):
            assert await first == await second == ToolResult(output="met")
            late = await hanging
    assert late.error is not None
    assert "gave no result within 2 s" in late.error.message


async def test_a_server_that_is_new_and_down_stops_no_reload() -> None:
    async with opened(raw_spec("well")) as toolbox:
        down = down_spec(required=True, connect_timeout_s=1)
        reloaded = await toolbox.reload([toolbox.spec("raw"), down])
        assert reloaded.added == ("down",)
        assert await toolbox.call("raw", "echo", "{}") == ToolResult(output="echo")


async def test_calls_of_several_servers_run_at_once() -> None:
    specs = [stdio_spec(label="one"), stdio_spec(label="two")]
    meet = json.dumps({"place": "p", "people": 2})
    async with opened(*specs) as toolbox:
        calls = [toolbox.call(label, "meet", meet) for label in ("one", "two", "one", "two")]
        assert await asyncio.gather(*calls) == [ToolResult(output="met")] * 4


def test_python_is_this_python_where_path_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    interpreter = tmp_path / "lib" / "the-python"
    interpreter.parent.mkdir()
    interpreter.touch()
    monkeypatch.setattr(sys, "executable", str(interpreter))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("python") == str(interpreter)
    assert find_program("python3") == str(interpreter)
    with pytest.raises(FileNotFoundError, match="'npx'"):
        find_program("npx")


def test_programs_beside_this_python_come_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder in ("own", "path"):
        (tmp_path / folder).mkdir()
        for name in ("python", "tool"):
            shutil.copy("/bin/true", tmp_path / folder / name)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "own" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find_program("python") == str(tmp_path / "own" / "python")
    assert find_program("tool") == str(tmp_path / "own" / "tool")
    assert find_program("./tool") == "./tool"
