"""A gateway on a listening socket, from start to graceful end."""

import asyncio
import logging
import math
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from smg.app import MIB, Gateway, gateway
from smg.crowd import more_files, most_connections, new_protocol
from smg.mcp.reload import reloading_at_hangup
from smg.mcp.toolbox import ServerStatus
from smg.places import database_url, shown_url
from smg.settings import Settings
from smg.sockets import bind

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
"""How often it is looked at whether a second signal has come; uvicorn's own measure."""

Started = Callable[[Gateway, str], None]  # Told once the gateway listens, with its base URL.


async def serve(settings: Settings, started: Started | None = None) -> None:
    """Run a gateway until the process is told to stop.

    Raises:
        ConfigError: something about the set-up is wrong, the address included.
    """
    listening = bind(settings, shared=settings.processes > 1)
    try:
        async with gateway(settings) as running:
            with reloading_at_hangup(running.reload_tools):
                await listen(running, listening, started)
    finally:
        listening.close()


def new_config(app: FastAPI, settings: Settings, connections: int | None = None) -> uvicorn.Config:
    """How HTTP and WebSockets are spoken, and over how many connections at most."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_seconds)),
        server_header=False,
        http=new_protocol(connections),
        ws=_WebSockets,
        ws_max_size=settings.max_body_mib * MIB,
        # Events are small and many: compressing each costs more than it saves.
        ws_per_message_deflate=False,
    )


async def listen(
    running: Gateway, listening: socket.socket, started: Started | None = None
) -> None:
    """Answer requests on this socket until told to stop."""
    config = new_config(running.app, running.settings, most_connections(more_files()))
    host, port = listening.getsockname()[:2]
    base_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def on_started() -> None:
        announce(running, base_url)
        if started is not None:
            started(running, base_url)

    await _Server(config, running, on_started).serve(sockets=[listening])


class _WebSockets(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets, which are closed at shutdown by who talks over them, not before."""

    def shutdown(self) -> None:
        if not self.handshake_complete or self.close_sent:
            super().shutdown()


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it listens, and leaves the process alive at its end."""

    def __init__(
        self, config: uvicorn.Config, running: Gateway, on_started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._doors = running.doors
        self._grace_s = running.settings.shutdown_grace_seconds
        self._settle_s = running.settings.drain_settle_secs
        self._on_started = on_started
        self._told = 0
        """The first signal that told it to stop."""
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new work, let load balancers notice, then hang up; all within the grace."""
        self._doors.close()
        if self._told == signal.SIGTERM:  # Nobody who presses ^C has a load balancer.
            await self._settle()
        left_s = self._doors.grace_left(self._grace_s)
        self.config.timeout_graceful_shutdown = max(1, math.ceil(left_s))
        await super().shutdown(sockets)

    async def _settle(self) -> None:
        until = time.monotonic() + min(self._settle_s, self._grace_s / 2)
        while time.monotonic() < until and not self.force_exit:  # noqa: ASYNC110 - a mere attribute
            await asyncio.sleep(TICK_SECONDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Stop; a second signal stops at once.

        uvicorn's own would raise the signal again when it has stopped, which ends the process
        before the responses, the tool servers and the database behind it are closed.
        """
        # Not here: a signal comes between any two steps of whoever is at the doors.
        self._loop.call_soon_threadsafe(self._doors.close)
        self._told = self._told or sig
        self.force_exit = self.should_exit
        self.should_exit = True


def announce(running: Gateway, base_url: str) -> None:
    """Say in a few lines what is served, where, and with what."""
    for model in running.models.all():
        up = sum(worker.is_up for worker in model.pool.workers)
        log.info(
            "Model %s: %d of %d workers up, context %s",
            model.name,
            up,
            len(model.pool.workers),
            model.context_length or "not known yet",
        )
    for status in running.toolbox.statuses():
        log.info("MCP server %s (%s): %s", status.label, status.address, _server_state(status))
    log.info("State in %s", shown_url(database_url(running.settings)))
    log.info("Listening on %s/v1 (OpenAPI at %s/docs)", base_url, base_url)


def _server_state(status: ServerStatus) -> str:
    if status.tools:
        return f"{len(status.tools)} tools"
    return f"{status.state}, {status.error}" if status.error else str(status.state)
