"""What a process of a tool server may use, and how its end is told."""

import json
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from smg.errors import ToolServerError
from smg.mcp.client import ServerConnection
from smg.mcp.spec import Command, ProcessLimits
from smg.turn import ToolResult
from tests.mcp.servers import RAW_SERVER, connected, raw_spec

BOUND = 20.0


def command(behaviour: str, **limits: int) -> Command:
    return Command(
        program=sys.executable,
        args=(str(RAW_SERVER), behaviour),
        limits=ProcessLimits(**limits),
    )


def failed(result: ToolResult) -> str:
    assert result.error is not None
    return result.error.message


async def told(connection: ServerConnection) -> dict[str, Any]:
    result = await connection.call("echo", {})
    return dict(json.loads(result.output or ""))


async def test_a_process_that_takes_too_much_memory_ends_and_so_does_the_call() -> None:
    spec = raw_spec("", transport=command("hungry", memory_mib=256), timeout_s=60)
    async with connected(spec) as connection:
        await connection.tools()
        with anyio.fail_after(BOUND):
            message = failed(await connection.call("echo", {}))
            assert (await connection.tools()).tools  # The next one is up.
    assert message == (
        "The connection to 'raw' was lost during the call (its process ended with status 1; its"
        " last words: MemoryError): whether 'echo' has done its work is not known"
    )


async def test_a_process_has_its_limits_and_no_core_file() -> None:
    limits = {"memory_mib": 512, "open_files": 64, "processes": 4000, "cpu_s": 600}
    async with connected(raw_spec("", transport=command("tells_limits", **limits))) as connection:
        said = await told(connection)
    assert said == {
        "CORE": [0, 0],
        "DATA": [512 * 1024 * 1024] * 2,
        "NOFILE": [64, 64],
        "NPROC": [4000, 4000],
        "CPU": [600, 605],
    }


async def test_without_limits_a_process_has_the_gateways_and_no_core_file() -> None:
    async with connected(raw_spec("tells_limits")) as connection:
        said = await told(connection)
    ours = {
        name: list(resource.getrlimit(getattr(resource, f"RLIMIT_{name}")))
        for name in ("DATA", "NOFILE", "NPROC", "CPU")
    }
    assert said == {"CORE": [0, 0], **ours}


async def test_a_process_finds_variables_and_signals_as_if_nothing_had_set_its_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LANG", "LC_ALL", "LC_CTYPE"):
        monkeypatch.delenv(name, raising=False)
    # A shell: Python would set and ignore them again.
    script = 'echo "<$LC_CTYPE> $(grep SigIgn /proc/$$/status)" >&2; exit 3'
    shell = Command(program="/bin/sh", args=("-c", script))
    async with connected(raw_spec("", transport=shell)) as connection:
        with pytest.raises(ToolServerError, match="ended with status 3") as raised:
            await connection.tools()
    found = re.search(r"its last words: <> SigIgn:\s*([0-9a-f]+)", str(raised.value))
    assert found is not None
    assert not int(found[1], 16) & 1 << signal.SIGPIPE - 1


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    gone = Command(program=str(tmp_path / "none"))
    async with connected(raw_spec("", transport=gone)) as connection:
        with pytest.raises(ToolServerError) as raised:
            await connection.tools()
    assert "cannot be reached: its process ended with status 127; its last" in str(raised.value)
    assert f"{tmp_path / 'none'} cannot be started: No such file or directory" in str(raised.value)


async def test_a_process_that_is_killed_is_told_by_its_signal() -> None:
    async with connected(raw_spec("kills_itself", timeout_s=60)) as connection:
        await connection.tools()
        with anyio.fail_after(BOUND):
            message = failed(await connection.call("echo", {}))
    assert "was lost during the call (its process was ended by SIGKILL)" in message
