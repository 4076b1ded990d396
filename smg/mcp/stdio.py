"""A command to a process that speaks MCP on its standard streams: one JSON message a line.

A line has a length it may not pass. The process leads a group of its own; at the end its input is
closed, then the whole group is told to end, then killed, whoever of it is left: also children that
outlive a server which ended well. Limits are set before its first instruction (smg.mcp.launcher).
Knows nothing of what the messages say.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TextIO

import anyio
import anyio.abc
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from smg.mcp import launcher
from smg.mcp.spec import ProcessLimits

MAX_LINE_BYTES = 16 * 1024 * 1024

# For the process to read what was sent, to end by itself, after SIGTERM, and after SIGKILL.
_FLUSH_SECONDS, _END_SECONDS, _TERM_SECONDS, _KILL_SECONDS = 0.5, 2.0, 2.0, 2.0
_LOOK_SECONDS = 0.01
_SIGNALS = {number.value: number.name for number in signal.Signals}  # Not each has a name.
# For a process that has closed its output to be gone, so that the end can be explained.
_GONE_SECONDS = 1.0
# Who passes the soft limit of processor time is told (SIGXCPU), and then killed.
_GRACE_CPU_SECONDS = 5

_GONE = (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream, OSError)


class LineTooLong(Exception):
    """Raised when a server writes more without a line end than any message has."""

    def __init__(self) -> None:
        super().__init__(f"it wrote a line of more than {MAX_LINE_BYTES} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What to start, and how."""

    argv: Sequence[str]
    env: Mapping[str, str]
    """All variables the process gets."""
    cwd: str | None
    stderr: TextIO
    limits: ProcessLimits = ProcessLimits()
    tell: Callable[[str], None] = lambda _: None
    """Told how the process ended, if it ended by itself."""


Incoming = MemoryObjectSendStream[SessionMessage | Exception]
Outgoing = MemoryObjectReceiveStream[SessionMessage]


@asynccontextmanager
async def run_process(
    start: Start,
) -> AsyncGenerator[
    tuple[
        MemoryObjectReceiveStream[SessionMessage | Exception],
        MemoryObjectSendStream[SessionMessage],
    ],
    None,
]:
    """Start a process and talk to it, until the context ends.

    Raises:
        OSError: it cannot be started.
    """
    process = await anyio.open_process(
        _limited(start),
        env=start.env,
        cwd=start.cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=start.stderr,
        start_new_session=True,
    )
    # No wait from here to the task group: a cancellation in between would leave the process alone.
    heard, reading = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    writing, said = anyio.create_memory_object_stream[SessionMessage](0)
    written = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_read, process, heard, start.tell)
        group.start_soon(_write, process, said, heard, written)
        try:
            yield reading, writing
        finally:
            with anyio.CancelScope(shield=True):
                reading.close()
                writing.close()
                with anyio.move_on_after(_FLUSH_SECONDS):
                    await written.wait()
                await _end(process)
            group.cancel_scope.cancel()


def _limited(start: Start) -> list[str]:
    """The command behind the one that sets its limits and becomes it."""
    asked = {"limits": _limits(start.limits), "variables": sorted(start.env)}
    return [sys.executable, "-I", "-S", launcher.__file__, json.dumps(asked), *start.argv]


def _limits(limits: ProcessLimits) -> dict[str, tuple[int, int]]:
    """Soft and hard limits by name; no core files, for memory holds keys."""
    # Not RLIMIT_AS: runtimes reserve far more address space than they use. Node hangs under it.
    memory = None if limits.memory_mib is None else limits.memory_mib * 1024 * 1024
    told = {
        "RLIMIT_CORE": 0,
        "RLIMIT_DATA": memory,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_NPROC": limits.processes,
    }
    pairs = {name: (value, value) for name, value in told.items() if value is not None}
    if limits.cpu_s is not None:
        pairs["RLIMIT_CPU"] = (limits.cpu_s, limits.cpu_s + _GRACE_CPU_SECONDS)
    return pairs


async def _read(process: anyio.abc.Process, heard: Incoming, tell: Callable[[str], None]) -> None:
    """Pass on messages; when nobody listens any more, read on: the end must not wait for a pipe."""
    assert process.stdout is not None
    async with heard:
        with suppress(*_GONE):
            if await _read_lines(process.stdout, heard):
                await _tell_end(process, tell)
    with suppress(*_GONE):
        while True:
            await process.stdout.receive()


async def _read_lines(stdout: anyio.abc.ByteReceiveStream, heard: Incoming) -> bool:
    """Pass on messages; whether there are no more."""
    begun, size = list[bytes](), 0
    async for piece in stdout:
        *lines, rest = piece.split(b"\n")
        for line in lines:
            await heard.send(_message(b"".join((*begun, line))))
            begun, size = [], 0
        begun.append(rest)
        size += len(rest)
        if size > MAX_LINE_BYTES:
            await heard.send(LineTooLong())
            return False
    return True


async def _tell_end(process: anyio.abc.Process, tell: Callable[[str], None]) -> None:
    with anyio.move_on_after(_GONE_SECONDS):
        await _left(process)
    match process.returncode:
        case None:
            tell("its process closed its output")
        case int() as status if status < 0:
            tell(f"its process was ended by {_SIGNALS.get(-status, f'signal {-status}')}")
        case status:
            tell(f"its process ended with status {status}")


async def _write(
    process: anyio.abc.Process, said: Outgoing, heard: Incoming, written: anyio.Event
) -> None:
    assert process.stdin is not None
    try:
        async with said:
            async for message in said:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                await process.stdin.send(text.encode() + b"\n")
    except _GONE:
        heard.close()  # Or who waits for an answer would wait for ever.
    finally:
        written.set()


def _message(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


async def _end(process: anyio.abc.Process) -> None:
    """See the process and its group to their end."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(*_GONE):
        await process.stdin.aclose()
    with anyio.move_on_after(_END_SECONDS):
        await _left(process)
    for number, seconds in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
        if not _tell_group(process.pid, number):
            break
        with anyio.move_on_after(seconds):
            await _group_left(process)
    with suppress(*_GONE):
        await process.stdout.aclose()
    _forget(process)


async def _left(process: anyio.abc.Process) -> None:
    # Not `wait`: that waits for the pipes, too, which a child may hold open.
    while process.returncode is None:  # noqa: ASYNC110 - There is no event for this.
        await anyio.sleep(_LOOK_SECONDS)


async def _group_left(process: anyio.abc.Process) -> None:
    while process.returncode is None or _tell_group(process.pid, 0):  # noqa: ASYNC110
        await anyio.sleep(_LOOK_SECONDS)


def _tell_group(leader: int, number: int) -> bool:
    """Send a signal to a group; whether there is anybody left in it."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # Somebody is, who is not ours to signal.
        return True
    return True


def _forget(process: anyio.abc.Process) -> None:
    """Close asyncio's transport, which would warn when collected while a child holds a pipe."""
    transport = getattr(getattr(process, "_process", None), "_transport", None)
    if transport is not None:
        with suppress(PermissionError):
            transport.close()
