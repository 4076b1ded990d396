"""Tool servers that requests bring along: checked, connected, shared by nobody but their owner.

A URL and credentials come in, a server to list and call goes out. Connections are pooled by label,
owner, URL and credentials, and closed when nobody has used them for a while; a server held by a
running turn connects again when it is called. Credentials live in memory only, in the objects that
use them: they are never stored, logged or told. Knows nothing of requests beyond these fields.
"""

import asyncio
import hashlib
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from smg.errors import GatewayError, InvalidRequest, RateLimited, ToolServerError
from smg.items import McpTool
from smg.mcp.client import ServerConnection
from smg.mcp.connection import Ties
from smg.mcp.egress import EgressTransport, Resolve, look_up
from smg.mcp.hosts import AllowedHosts
from smg.mcp.results import failure, read_arguments
from smg.mcp.spec import Endpoint, Secret, ServerSpec
from smg.mcp.transports import Wire, direct, open_streams
from smg.turn import Now, ToolResult

_MAX_HEADERS = 32
_MAX_HEADER_BYTES = 16384

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
# These belong to the connection, or to the protocol spoken over it.
_OURS = re.compile(
    r"host|connection|keep-alive|content-.*|transfer-encoding|te|trailer|upgrade|expect|cookie"
    r"|accept(-.*)?|forwarded|x-forwarded-.*|proxy-.*|mcp-.*|last-event-id|x-smg-.*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """How long and how many."""

    idle_s: float = 300.0
    """A server that nobody has used for so long is closed."""
    capacity: int = 128
    """Connections at once; the least recently used makes room."""
    connect_timeout_s: float = 10.0
    timeout_s: float = 30.0
    """For one call."""


@dataclass(slots=True)
class _Pooled:
    """A connection, and who uses it now."""

    connection: ServerConnection
    users: int = 0
    expiry: asyncio.TimerHandle | None = None


class RequestServer:
    """A tool server of one request, for as long as its turn takes."""

    def __init__(self, pool: "RequestServers", key: str, spec: ServerSpec) -> None:
        self._pool = pool
        self._key = key
        self.spec = spec

    async def tools(self) -> tuple[McpTool, ...]:
        """The tools it offers.

        Raises:
            ToolServerError: it cannot be reached.
            RateLimited: too many such servers are connected.
        """
        async with self._pool.borrowed(self._key, self.spec) as connection:
            return (await connection.tools()).tools

    async def call(
        self, name: str, arguments: str, *, timeout_s: float | None = None
    ) -> ToolResult:
        """Run one call. A failing tool, server or argument is a result, not an error."""
        parsed = read_arguments(arguments)
        if isinstance(parsed, ToolResult):
            return parsed
        try:
            async with self._pool.borrowed(self._key, self.spec) as connection:
                return await connection.call(name, parsed, timeout_s)
        except GatewayError as error:
            return failure(error.message)


class RequestServers:
    """All servers that requests have named, connected from `open` until nobody uses them."""

    def __init__(
        self,
        allowed_hosts: Iterable[str],
        now: Now,
        *,
        resolve: Resolve = look_up,
        wire: Wire = direct,
        limits: PoolLimits = PoolLimits(),
    ) -> None:
        """Let requests name servers on these hosts (smg.mcp.hosts); on none if there are none.

        Raises:
            ConfigError: a host is ill-formed.
        """
        self._hosts = AllowedHosts(allowed_hosts)
        self._now = now
        self._resolve = resolve
        self._wire = wire
        self._limits = limits
        self._pooled: OrderedDict[str, _Pooled] = OrderedDict()
        self._leaving: set[asyncio.Task[None]] = set()
        self._salt = secrets.token_bytes(32)
        self._closed = False

    async def open(
        self,
        label: str,
        url: str,
        *,
        authorization: str | None = None,
        headers: Mapping[str, str] | None = None,
        owner: str,
        path: str = "tools",
    ) -> RequestServer:
        """Reach the server of one `{"type": "mcp", "server_url": ...}` tool, found at `path`.

        Raises:
            InvalidRequest: requests may not name this server, or a header is not one to send.
            ToolServerError: it cannot be reached.
            RateLimited: too many such servers are connected.
        """
        checked = self._hosts.check(url, f"{path}.server_url")
        if not _LABEL.fullmatch(label):
            where, right = f"{path}.server_label", "1 to 64 letters, digits, '-' and '_'"
            raise InvalidRequest(f"Invalid '{where}': expected {right}.", param=where)
        sent = _headers(authorization, headers or {}, path)
        spec = ServerSpec(
            label=label,
            transport=_endpoint(checked, sent),
            timeout_s=self._limits.timeout_s,
            connect_timeout_s=self._limits.connect_timeout_s,
        )
        server = RequestServer(self, self._key(owner, label, checked, sent), spec)
        await server.tools()
        return server

    async def close(self) -> None:
        """Take leave of all servers; calls under way end with an error."""
        self._closed = True
        for key in list(self._pooled):
            self._leave(key)
        await asyncio.gather(*self._leaving)

    @asynccontextmanager
    async def borrowed(self, key: str, spec: ServerSpec) -> AsyncGenerator[ServerConnection, None]:
        """The pooled connection, made now if there is none; it stays open in this block."""
        pooled = self._pooled.get(key) or self._connect(key, spec)
        pooled.users += 1
        if pooled.expiry is not None:
            pooled.expiry.cancel()
        try:
            yield pooled.connection
        except ToolServerError:
            if pooled.users == 1 and self._pooled.get(key) is pooled:
                self._leave(key)  # Who comes next tries anew, and nobody tries in between.
            raise
        finally:
            pooled.users -= 1
            if self._pooled.get(key) is pooled and not pooled.users:
                self._pooled.move_to_end(key)
                loop = asyncio.get_running_loop()
                pooled.expiry = loop.call_later(self._limits.idle_s, self._leave, key)

    def _connect(self, key: str, spec: ServerSpec) -> _Pooled:
        if self._closed:
            raise ToolServerError("The gateway is shutting down.")
        if len(self._pooled) >= self._limits.capacity:
            self._make_room()
        connect = partial(open_streams, wire=self._guarded)
        # Nobody answers their questions: a stranger's server does not use our model.
        ties = Ties(connect=connect)
        pooled = self._pooled[key] = _Pooled(ServerConnection(spec, self._now, ties))
        pooled.connection.start()
        return pooled

    def _make_room(self) -> None:
        idle = next((key for key, pooled in self._pooled.items() if not pooled.users), None)
        if idle is None:
            raise RateLimited("Too many MCP servers named by requests are in use; try again later.")
        self._leave(idle)

    def _leave(self, key: str) -> None:
        """Close a connection, without waiting for it."""
        pooled = self._pooled.pop(key)
        if pooled.expiry is not None:
            pooled.expiry.cancel()
        task = asyncio.create_task(pooled.connection.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _guarded(self, endpoint: Endpoint) -> EgressTransport:
        return EgressTransport(
            self._hosts.private,
            resolve=self._resolve,
            new_transport=lambda: self._wire(endpoint),
        )

    def _key(self, owner: str, label: str, url: str, headers: Mapping[str, str]) -> str:
        """One connection each for what differs in anything; keys do not tell the credentials."""
        said = json.dumps([owner, label, url, sorted(headers.items())])
        return hashlib.blake2b(said.encode(), key=self._salt).hexdigest()


def _endpoint(url: str, headers: Mapping[str, str]) -> Endpoint:
    last = urlsplit(url).path.rstrip("/").rpartition("/")[2]
    return Endpoint(
        url=Secret(url),
        protocol="sse" if last == "sse" else "streamable",
        headers={name: Secret(value) for name, value in headers.items()},
    )


def _headers(authorization: str | None, given: Mapping[str, str], path: str) -> dict[str, str]:
    """The headers to send; what is wrong with one is told without its value."""
    headers: dict[str, str] = {}
    for name, value in given.items():
        lower = name.lower()
        if not _HEADER_NAME.fullmatch(name) or not _VALUE.fullmatch(value) or lower in headers:
            raise _bad_headers(path, "names and values are plain ASCII, each name once")
        if _OURS.fullmatch(name):
            raise _bad_headers(path, f"the header {lower!r} is not a request's to set")
        headers[lower] = value.strip()
    size = sum(len(name) + len(value) for name, value in headers.items())
    if len(headers) > _MAX_HEADERS or size > _MAX_HEADER_BYTES:
        raise _bad_headers(path, f"at most {_MAX_HEADERS} and {_MAX_HEADER_BYTES} bytes")
    if authorization is not None:
        if "authorization" in headers:
            raise _bad_headers(path, "'authorization' is given beside it")
        headers["authorization"] = _bearer(authorization.strip(), f"{path}.authorization")
    return headers


def _bearer(token: str, path: str) -> str:
    token = token if token.lower().startswith("bearer ") else f"Bearer {token}"
    if not _VALUE.fullmatch(token) or len(token) > _MAX_HEADER_BYTES:
        raise InvalidRequest(f"Invalid '{path}': expected a token, in plain ASCII.", param=path)
    return token


def _bad_headers(path: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{path}.headers': {why}.", param=f"{path}.headers")
