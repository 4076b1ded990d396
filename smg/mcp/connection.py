"""One server's connection, kept up: made, listed, watched, and made again when it is lost.

A description comes in; a live client, the tools that may be offered and a state go out. Every wait
has a deadline of ours: the SDK's own may never end. Calls nothing; knows nothing of other servers,
of the file they came from, or of what is offered to whom.
"""

import asyncio
import logging
import math
from dataclasses import dataclass
from enum import StrEnum

import anyio
from mcp import Client
from mcp.client.session import IncomingMessage
from mcp.types import Implementation, ToolListChangedNotification

from smg import __version__
from smg.errors import ToolServerError
from smg.mcp.breaker import Breaker
from smg.mcp.definitions import Catalog, clean_text
from smg.mcp.listing import follow_changes, list_tools
from smg.mcp.pins import Pins, PinsInMemory, PinStore
from smg.mcp.sampling import Ask, Questions
from smg.mcp.spec import ServerSpec
from smg.mcp.transports import Connect, Traces, open_streams
from smg.turn import Now

# Taking leave of an HTTP server is one request. A process gets 2 s to end by itself, 2 s after
# SIGTERM and 2 s after SIGKILL, which the SDK shields from this deadline.
_LEAVE_SECONDS = 3.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
# A connection that held this long was a good one: the pauses begin anew.
_STEADY_SECONDS = 60.0
_MAX_REASON = 500

_log = logging.getLogger(__name__)


class State(StrEnum):
    """Whether a server can be called."""

    CONNECTING = "connecting"
    READY = "ready"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties:
    """What connections have to do with besides their servers."""

    connect: Connect = open_streams
    ask: Ask | None = None
    """Who answers servers that may ask the model; `None`: nobody."""
    pins: PinStore | None = None
    """Who keeps which tools were agreed to; `None`: each connection, for as long as it lives."""


NO_TIES = Ties()


@dataclass(slots=True)
class Live:
    """A connection while it holds."""

    client: Client
    traces: Traces


class KeptConnection:
    """A connection to one server, kept up from `start` to `close`.

    One task of its own enters and leaves the SDK's contexts, which may not change hands.
    """

    def __init__(self, spec: ServerSpec, now: Now, ties: Ties = NO_TIES) -> None:
        self.spec = spec
        self.state = State.CONNECTING
        self.error: str | None = None
        """Why the last attempt failed, without secrets."""
        self.changed_at = now()
        self.catalog = Catalog()
        """The tools that may be offered, as last seen."""
        self._now = now
        self._connect = ties.connect
        self._breaker = Breaker(spec.breaker)
        self._pins = Pins(spec, ties.pins or PinsInMemory(), now)
        self._questions = Questions(spec, ties.ask)
        self._task: asyncio.Task[None] | None = None
        self._scope = anyio.CancelScope()
        self._closing = asyncio.Event()
        self._legacy = False
        self._live: Live | None = None
        self._settled = asyncio.Event()
        """Set when the attempt that runs now, or comes next, has ended one way or the other."""
        self._wanted = asyncio.Event()
        """Set by whoever waits for that attempt."""

    def start(self) -> None:
        """Begin to connect, and return at once."""
        self._task = asyncio.create_task(self._run(), name=f"mcp {self.spec.label}")

    async def close(self) -> None:
        """Take leave of the server; calls under way end with an error."""
        self._closing.set()
        self._wanted.set()
        if self._live is not None:
            self._drop(self._live, "it was closed")
        else:
            self._scope.cancel()
        if self._task is not None:
            await self._task

    async def _connected(self) -> Live:
        """The live connection, or that of the next attempt, which begins now."""
        if self._live is None and not self._closing.is_set():
            self._wanted.set()
            await self._settled.wait()
        if self._live is None:
            raise self._unreachable()
        return self._live

    def _unreachable(self) -> ToolServerError:
        why = self.error or "it has not answered yet"
        return ToolServerError(f"MCP server {self.spec.label!r} cannot be reached: {why}")

    async def _run(self) -> None:
        """Hold a connection; after its loss, and a growing pause, the next."""
        failures = 0
        while not self._closing.is_set():
            began = anyio.current_time()
            traces, attempt = Traces(), self._settled
            try:
                await self._hold(traces)
            except Exception as error:  # noqa: BLE001 - No server's doing may end this task.
                self._enter(State.DOWN, self._reason(error, traces))
            if self._settled is attempt:  # It never came up; who waited for it has his answer.
                self._settled, self._wanted = asyncio.Event(), asyncio.Event()
                attempt.set()
            if self._closing.is_set():
                break
            steady = anyio.current_time() - began > _STEADY_SECONDS
            failures = 0 if steady else failures + 1
            with anyio.move_on_after(min(_FIRST_PAUSE * 2**failures, _LONGEST_PAUSE)):
                await self._wanted.wait()
        self._enter(State.DOWN, self.error)
        self._settled.set()

    async def _hold(self, traces: Traces) -> None:
        """Connect, and stay connected until the connection is lost or closed.

        One scope guards it all, with one deadline for the way in and one for the way out: a scope
        opened inside the SDK's contexts would have to close inside them.
        """
        self._enter(State.CONNECTING, self.error)
        deadline, came_up = anyio.current_time() + self.spec.connect_timeout_s, False
        with anyio.CancelScope(deadline=deadline) as self._scope:
            async with self._new_client(traces) as client:
                live = Live(client, traces)
                await self._found(await list_tools(client))
                self._scope.deadline = math.inf
                self._come_up(live)
                came_up = True
                try:
                    await self._watch(live)
                finally:
                    self._drop(live, "the connection was lost")
                    self._scope.deadline = anyio.current_time() + _LEAVE_SECONDS
        if not came_up and not self._closing.is_set():
            # Servers from before 2026 that ignore the first question of today's clients: the next
            # attempt begins as those expect it.
            self._legacy = not self._legacy
            raise TimeoutError

    def _new_client(self, traces: Traces) -> Client:
        async def heard(message: IncomingMessage) -> None:
            if isinstance(message, ToolListChangedNotification):
                traces.changed.set()

        return Client(
            self._connect(self.spec, traces),
            message_handler=heard,
            sampling_callback=self._questions.callback,
            client_info=Implementation(name="smg", version=__version__),
            mode="legacy" if self._legacy else "auto",
            cache=None,
        )

    async def _watch(self, live: Live) -> None:
        """Keep the list of tools current until the connection ends."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_current, live)
            group.start_soon(follow_changes, live.client, live.traces.changed.set)
            await live.traces.ended.wait()
            group.cancel_scope.cancel()

    async def _keep_current(self, live: Live) -> None:
        while True:
            await live.traces.changed.wait()
            live.traces.changed.clear()
            with anyio.fail_after(self.spec.connect_timeout_s):
                await self._found(await list_tools(live.client))

    async def _found(self, catalog: Catalog) -> None:
        look = await self._pins.see(catalog)
        before, self.catalog = self.catalog, look.offered
        if self.catalog == before:
            return
        for line in self.catalog.left_out:
            _log.warning("MCP server %s: left out %s", self.spec.label, line)
        if look.changed or (before.digest and before.digest != catalog.digest):
            names = ", ".join(look.changed) or "as they were approved again"
            _log.warning("MCP server %s: its tools changed: %s", self.spec.label, names)

    def _come_up(self, live: Live) -> None:
        self._live = live
        self._wanted = asyncio.Event()
        self._breaker.revive()
        self._enter(State.READY, None)
        self._settled.set()
        _log.info("MCP server %s: ready, %d tools", self.spec.label, len(self.catalog.tools))

    def _drop(self, live: Live, reason: str) -> None:
        """The connection is over; who comes now waits for the next attempt."""
        live.traces.ended.set()
        if self._live is live:
            self._live = None
            self._settled = asyncio.Event()
            self._enter(State.DOWN, self._shown(live.traces.reason or reason))

    def _enter(self, state: State, error: str | None) -> None:
        if state is State.DOWN and not self._closing.is_set() and error != self.error:
            _log.warning("MCP server %s: down: %s", self.spec.label, error)
        if state is not self.state:
            self.changed_at = self._now()
        self.state, self.error = state, error

    def _reason(self, error: BaseException, traces: Traces) -> str:
        """What to tell about a failed attempt: the first cause, and what else was noticed."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, TimeoutError):
            said = f"it did not answer within {self.spec.connect_timeout_s:g} s"
        else:
            said = str(error) or type(error).__name__
        if traces.http_status is not None:
            said += f" (HTTP {traces.http_status})"
        if traces.stderr:
            said += f" (its last words: {traces.stderr})"
        return self._shown(said)

    def _shown(self, text: str) -> str:
        """A foreign message, fit for logs, clients and models."""
        return self.spec.redact(clean_text(text))[:_MAX_REASON]
