"""A server's description to the two streams the MCP SDK talks over.

Processes are started here, without a shell and with few variables; what they write to standard
error goes to the log. HTTP clients are made here: without redirects, without proxies from the
environment. Knows nothing of tools.
"""

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TextIO

import anyio
import httpx2
from mcp.client.sse import sse_client
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage

from smg.mcp.oauth import GuardedOthers, new_auth
from smg.mcp.spec import Command, Endpoint, ServerSpec
from smg.mcp.stderr import StderrLog
from smg.mcp.stdio import LineTooLong, Start, run_process

Streams = tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]

# Beside those, the SDK passes on HOME, LOGNAME, PATH, SHELL, TERM and USER. Nothing else of the
# gateway's environment reaches a server: its keys are in there.
_PASSED_ON = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")

# Events as large as this are no tool results any more. The SDK's own limit, 1 MiB, is the default
# for max_output_bytes, and an event is longer than the text in it.
_MAX_EVENT_BYTES = 16 * 1024 * 1024

# An event stream may be silent for as long as it likes, so there is no deadline for reading (each
# call has its own); TCP finds out whether the other side is still there.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", 0x10), 60),  # macOS names it otherwise.
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


@dataclass(slots=True)
class Traces:
    """What a transport noticed that the SDK's errors do not tell."""

    http_status: int | None = None
    """The last HTTP status of an error or a redirect."""
    stderr: str = ""
    """The last line a process wrote to standard error."""
    reason: str | None = None
    """Why the connection ended, where that is known."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when no message can come any more."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the list of tools should be asked for again."""

    def end(self, reason: str) -> None:
        """Note why the connection ends; what was noted first is the cause."""
        self.reason = self.reason or reason

    def explained(self, end: str) -> str:
        """Why the connection ended, and the last words of a process."""
        return f"{end}; its last words: {self.stderr}" if self.stderr else end


Connect = Callable[[ServerSpec, Traces], AbstractAsyncContextManager[Streams]]

Wire = Callable[[Endpoint], httpx2.AsyncBaseTransport]
"""What carries the requests to an endpoint."""


def direct(endpoint: Endpoint) -> httpx2.AsyncHTTPTransport:
    """Connections to wherever the endpoint is, through its proxy if it has one."""
    return httpx2.AsyncHTTPTransport(
        proxy=None if endpoint.proxy is None else endpoint.proxy.reveal(),
        socket_options=_KEEPALIVE,
    )


@asynccontextmanager
async def open_streams(
    spec: ServerSpec, traces: Traces, wire: Wire = direct
) -> AsyncGenerator[Streams, None]:
    """Reach the server, for as long as the context is open."""
    opened = (
        _started(spec, spec.transport, traces)
        if isinstance(spec.transport, Command)
        else _reached(spec, spec.transport, traces, wire)
    )
    async with opened as (reading, writing):
        yield _Watched(reading, traces), writing


@asynccontextmanager
async def _started(
    spec: ServerSpec, command: Command, traces: Traces
) -> AsyncGenerator[Streams, None]:
    env = get_default_environment()
    env |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    env |= {name: secret.reveal() for name, secret in command.env.items()}
    argv = (find_program(command.program), *command.args)
    async with _captured_stderr(spec, traces) as stderr:
        start = Start(
            argv=argv,
            env=env,
            cwd=command.cwd,
            stderr=stderr,
            limits=command.limits,
            tell=traces.end,
        )
        async with run_process(start) as streams:
            stderr.close()  # The process has its own copy; with ours open the pipe would never end.
            yield streams


def find_program(name: str) -> str:
    """The file to run for a command.

    Looked up as in an activated virtual environment: beside the gateway's own interpreter first,
    then in PATH. `python` and `python3`, where neither place has them, are that interpreter.

    Raises:
        FileNotFoundError: there is no such program.
    """
    if os.path.dirname(name):
        return name
    own = os.path.dirname(sys.executable)
    found = shutil.which(name, path=os.pathsep.join((own, os.environ.get("PATH", os.defpath))))
    if found is None and name in {"python", "python3"}:
        return sys.executable
    if found is None:
        raise FileNotFoundError(f"there is no program {name!r} in {own} or PATH")
    return found


@asynccontextmanager
async def _captured_stderr(spec: ServerSpec, traces: Traces) -> AsyncGenerator[TextIO, None]:
    """A file for a process to write to; its lines are logged until the last writer closes it."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    log = StderrLog(spec)

    async def drain() -> None:
        while True:
            await anyio.wait_readable(reader)
            if not (piece := os.read(reader, 65536)):
                break
            log.feed(piece)
            traces.stderr = log.last_line

    try:
        with os.fdopen(writer, "w") as file:
            async with anyio.create_task_group() as group:
                group.start_soon(drain)
                try:
                    yield file
                finally:
                    file.close()
                    # A grandchild may hold the pipe open for ever; last words come at once.
                    group.cancel_scope.deadline = anyio.current_time() + 0.5
    finally:
        os.close(reader)
        log.finish()
        traces.stderr = log.last_line


@asynccontextmanager
async def _reached(
    spec: ServerSpec, endpoint: Endpoint, traces: Traces, wire: Wire
) -> AsyncGenerator[Streams, None]:
    client = _new_http_client(endpoint, spec.connect_timeout_s, traces, wire)
    url = endpoint.url.reveal()
    if endpoint.protocol == "sse":
        async with sse_client(url, httpx_client_factory=_Given(client)) as streams:
            yield streams
        return
    async with (
        client,
        streamable_http_client(
            url, http_client=client, max_sse_event_size=_MAX_EVENT_BYTES
        ) as streams,
    ):
        yield streams


def _new_http_client(
    endpoint: Endpoint, connect_timeout_s: float, traces: Traces, wire: Wire
) -> httpx2.AsyncClient:
    async def note(response: httpx2.Response) -> None:
        if response.status_code >= 300:
            traces.http_status = response.status_code
        if endpoint.oauth is not None:
            response.headers.pop("location", None)

    return httpx2.AsyncClient(
        headers={name: secret.reveal() for name, secret in endpoint.headers.items()},
        timeout=httpx2.Timeout(connect_timeout_s, read=None),
        transport=GuardedOthers(endpoint, wire(endpoint)) if endpoint.oauth else wire(endpoint),
        auth=new_auth(endpoint),
        # The SDK follows redirects within the origin whatever the first flag says; it asks the
        # second. A configured address is final: credentials go there and nowhere else. Questions
        # for a token count as redirects, too: with an account, it is `note` that stops them.
        follow_redirects=False,
        max_redirects=0 if endpoint.oauth is None else 20,
        trust_env=False,
        event_hooks={"response": [note]},
    )


@dataclass(frozen=True, slots=True)
class _Given:
    """A factory that gives the client we made, whatever the SDK asks for."""

    client: httpx2.AsyncClient

    def __call__(
        self,
        headers: dict[str, str] | None = None,  # noqa: ARG002
        timeout: httpx2.Timeout | None = None,  # noqa: ARG002
        auth: httpx2.Auth | None = None,  # noqa: ARG002
    ) -> httpx2.AsyncClient:
        return self.client


class _Watched:
    """A stream of messages that tells when it has ended; the SDK keeps that to itself."""

    def __init__(self, inner: ReadStream[SessionMessage | Exception], traces: Traces) -> None:
        self._inner = inner
        self._traces = traces

    def __getattr__(self, name: str) -> object:
        # The SDK asks some streams for the sender's context (`last_context`).
        return getattr(self._inner, name)

    async def receive(self) -> SessionMessage | Exception:
        return await self._inner.receive()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> "_Watched":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            item = await self._inner.__anext__()
        except (StopAsyncIteration, anyio.ClosedResourceError):
            self._traces.ended.set()
            raise
        if isinstance(item, LineTooLong):
            self._traces.end(str(item))
        return item

    async def __aenter__(self) -> "_Watched":
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
