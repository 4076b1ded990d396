"""All tool servers of the gateway: what they offer, and one call to its result.

Descriptions come in; tools by label, results and statuses go out. Knows neither requests nor
models: who may call what, and under which name a model sees it, is decided above.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from smg.errors import ToolServerError
from smg.items import McpTool
from smg.mcp.client import Progress, ServerConnection
from smg.mcp.connection import NO_TIES, State, Ties
from smg.mcp.results import failure, read_arguments
from smg.mcp.spec import ServerSpec
from smg.turn import Now, ToolResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """How one server is; fit to be shown to anybody who may see the configuration."""

    label: str
    address: str
    state: State
    changed_at: int
    """Unix seconds of the last change of state."""
    error: str | None
    """Why it is down, or was."""
    required: bool
    default: bool
    tools: tuple[str, ...]
    """Names of the tools offered, as last seen."""
    left_out: tuple[str, ...]
    """Tools that are not offered, each with the reason."""
    definitions_hash: str
    """SHA-256 of the tools' definitions; empty before the first list."""
    internal: bool
    """Whether clients cannot name it."""
    breaker: str
    """Whether calls are let through: closed, open or half_open."""
    running: int
    """Calls under way."""
    progress: float | None
    """How much was done of the call that last told it, from 0 to 1."""
    questions: int
    """Questions to the model that were answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What a new configuration changed: labels of servers."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


class Toolbox:
    """The configured servers, connected from `start` to `close`."""

    def __init__(self, specs: Iterable[ServerSpec], now: Now, ties: Ties = NO_TIES) -> None:
        self._now = now
        self._ties = ties
        self._connections = {spec.label: ServerConnection(spec, now, ties) for spec in specs}
        self._retired: dict[ServerConnection, asyncio.Task[None]] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """All servers, in the order of the configuration."""
        return tuple(self._connections)

    @property
    def default_labels(self) -> tuple[str, ...]:
        """The servers whose tools are offered to requests that name none of them."""
        specs = (connection.spec for connection in self._connections.values())
        return tuple(spec.label for spec in specs if spec.default)

    def spec(self, label: str) -> ServerSpec:
        """The description of one server.

        Raises:
            ToolServerError: no server has this label.
        """
        return self._connection(label).spec

    async def start(self) -> None:
        """Connect all servers at once; those that are down are tried again in the background.

        Raises:
            ToolServerError: a required server is down. Nothing stays connected then.
        """
        for connection in self._connections.values():
            connection.start()
        first = await asyncio.gather(*map(self._first_error, self._connections.values()))
        if missing := [error for error in first if error is not None]:
            await self.close()
            raise ToolServerError("; ".join(missing))

    async def _first_error(self, connection: ServerConnection) -> str | None:
        """Why a required server is not there after its time for connecting."""
        try:
            await connection.tools()
        except ToolServerError as error:
            return f"required {error.message}" if connection.spec.required else None
        return None

    async def close(self) -> None:
        """Take leave of all servers."""
        leaving = [*self._connections.values(), *self._retired]
        await asyncio.gather(*(connection.close() for connection in leaving))
        await asyncio.gather(*self._retired.values())

    async def reload(self, specs: Iterable[ServerSpec]) -> Reloaded:
        """Go over to a new configuration, without a pause for what is not changed by it.

        Servers that are gone or changed end their calls under way first. Tools are approved as
        they are now. Returns when each new server is there, or has had its time.

        Raises:
            StorageError: the configuration is the new one, but what was approved cannot be kept.
        """
        before, after = self._connections, dict[str, ServerConnection]()
        fresh: list[ServerConnection] = []
        for spec in specs:
            old = before.get(spec.label)
            if old is not None and old.spec == spec:
                after[spec.label] = old
            else:
                after[spec.label] = ServerConnection(spec, self._now, self._ties)
                fresh.append(after[spec.label])
        self._connections = after
        for label, connection in before.items():
            if after.get(label) is not connection:
                self._retire(connection)
        for connection in fresh:
            connection.start()
        await asyncio.gather(*map(self._first_error, fresh))
        await asyncio.gather(*(connection.approve() for connection in after.values()))
        return _compared(before, after)

    def _retire(self, connection: ServerConnection) -> None:
        async def leave() -> None:
            await connection.wait_idle()
            await connection.close()
            self._retired.pop(connection, None)

        self._retired[connection] = asyncio.create_task(leave())

    async def tools(self, label: str) -> tuple[McpTool, ...]:
        """The tools of one server that may be offered, under their aliases.

        Raises:
            ToolServerError: no server has this label, or it cannot be reached.
        """
        connection = self._connection(label)
        await connection.tools()
        return _offered(connection)[0]

    async def call(
        self,
        server: str,
        name: str,
        arguments: str,
        *,
        timeout_s: float | None = None,
        progress: Progress | None = None,
    ) -> ToolResult:
        """Run one call. A failing tool, server or argument is a result, not an error."""
        parsed = read_arguments(arguments)
        if isinstance(parsed, ToolResult):
            return parsed
        try:
            connection = self._connection(server)
        except ToolServerError as error:
            return failure(error.message)
        original = _original_name(connection.spec, name)
        if original is None:
            return failure(f"Server {server!r} offers no tool {name!r}")
        return await connection.call(original, parsed, timeout_s, progress)

    def statuses(self) -> list[ServerStatus]:
        """All servers, in the order of the configuration."""
        return [_status(connection) for connection in self._connections.values()]

    def _connection(self, label: str) -> ServerConnection:
        if (connection := self._connections.get(label)) is None:
            known = ", ".join(self._connections) or "none"
            raise ToolServerError(f"There is no tool server {label!r}; configured: {known}")
        return connection


def _offered(connection: ServerConnection) -> tuple[tuple[McpTool, ...], tuple[str, ...]]:
    """The tools the configuration lets through, and those its aliases push out."""
    spec, tools, left_out = connection.spec, dict[str, McpTool](), list[str]()
    for tool in connection.catalog.tools:
        if spec.allowed_tools is not None and tool.name not in spec.allowed_tools:
            continue
        name = spec.aliases.get(tool.name, tool.name)
        if tool.name == name and name in spec.aliases.values():
            left_out.append(f"{name}: the configuration gives this name to another tool")
        else:
            tools[name] = replace(tool, name=name)
    return tuple(tools.values()), tuple(left_out)


def _original_name(spec: ServerSpec, offered: str) -> str | None:
    """The server's own name of a tool, if the configuration lets it be called."""
    originals: Mapping[str, str] = {alias: name for name, alias in spec.aliases.items()}
    name = originals.get(offered, offered)
    hidden = offered in spec.aliases and offered not in originals
    allowed = spec.allowed_tools is None or name in spec.allowed_tools
    return name if allowed and not hidden else None


def _status(connection: ServerConnection) -> ServerStatus:
    spec = connection.spec
    tools, pushed_out = _offered(connection)
    return ServerStatus(
        label=spec.label,
        address=spec.address,
        state=State.DOWN if connection.blocked else connection.state,
        changed_at=connection.changed_at,
        error=connection.blocked or connection.error,
        required=spec.required,
        default=spec.default,
        tools=tuple(tool.name for tool in tools),
        left_out=connection.catalog.left_out + pushed_out,
        definitions_hash=connection.catalog.digest,
        internal=spec.internal,
        breaker=connection.breaker,
        running=connection.running,
        progress=connection.progress,
        questions=connection.questions,
    )


def _compared(
    before: Mapping[str, ServerConnection], after: Mapping[str, ServerConnection]
) -> Reloaded:
    both = [label for label in after if label in before]
    return Reloaded(
        added=tuple(label for label in after if label not in before),
        removed=tuple(label for label in before if label not in after),
        changed=tuple(label for label in both if after[label] is not before[label]),
        kept=tuple(label for label in both if after[label] is before[label]),
    )
