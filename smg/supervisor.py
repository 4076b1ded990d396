"""Several gateway processes on one port: settings and a command line come in, an exit status out.

The kernel deals connections out (SO_REUSEPORT); what the processes have to know of each other is
in the database. A child that dies is started again. Loads no library and knows no gateway: all it
shares with its children is their command line, their number and a pipe that ends when it does.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Generator, MutableMapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace

from smg.errors import ConfigError
from smg.settings import Settings
from smg.sockets import bind

log = logging.getLogger(__name__)

NUMBER = "SMG_PROCESS_NUMBER"
"""The variable that tells a child that it is one, and which."""

GIVEN_WRONG = 2  # What smg ends with when its flags or its surroundings are wrong.


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What is borne of children."""

    stop_seconds: float
    """How long they may take to stop, before they are killed."""
    quick_seconds: float = 10.0
    """Who dies sooner did not really live."""
    quick_deaths: int = 5
    """After so many in a row it is given up."""
    backoff_seconds: float = 0.1
    """Before the second life; twice as long before each further one."""


async def supervise(settings: Settings, words: Sequence[str]) -> int:
    """Run gateways with these flags until told to stop; the exit status.

    Raises:
        ConfigError: gateways with these settings cannot share a port; or the port is taken.
    """
    _check(settings)
    patience = Patience(stop_seconds=settings.shutdown_grace_seconds + 10.0)
    team = Team([sys.executable, "-m", "smg", *words], settings.processes, patience)
    loop = asyncio.get_running_loop()
    # Held as long as we live, and not listened on: nobody else gets the port between two lives.
    with closing(_reserved(settings)):
        for told in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(told, team.stop, told)
        loop.add_signal_handler(signal.SIGHUP, team.tell, signal.SIGHUP)
        return await team.run()


def _check(settings: Settings) -> None:
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("--processes: this system cannot share a port between processes")
    if settings.port == 0:
        raise ConfigError("--processes: give them one --port; each would take another free one")
    url = settings.database_url or ""
    if ":memory:" in url or url in {"sqlite://", "sqlite:///"}:
        raise ConfigError("--processes: a database in memory cannot be shared between processes")


def _reserved(settings: Settings) -> socket.socket:
    bind(settings).close()  # Fails if another gateway listens, even one that would share.
    return bind(settings, shared=True)


class Team:
    """Children that are started again when they die, until they are told to stop."""

    def __init__(self, command: Sequence[str], count: int, patience: Patience) -> None:
        self._command = command
        self._count = count
        self._patience = patience
        self._children: dict[int, Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Keep the children alive until `stop`; 0 if all of them ended well."""
        async with asyncio.TaskGroup() as group:
            lives = [group.create_task(self._keep(number)) for number in range(self._count)]
        return max(life.result() for life in lives)

    def tell(self, told: signal.Signals) -> None:
        """Pass a signal on."""
        for child in self._children.values():
            with suppress(ProcessLookupError):  # Dead, and not buried yet.
                child.send_signal(told)

    def stop(self, told: signal.Signals) -> None:
        """Pass a signal on that ends them; nobody is started any more."""
        self._stopping.set()
        self.tell(told)

    async def _keep(self, number: int) -> int:
        """Start one child again and again; the status that it ends with for good."""
        quick = lives = 0
        while not self._stopping.is_set():
            born = time.monotonic()
            status = await self._live(number)
            lives += 1
            if self._stopping.is_set():
                return 0 if status in {0, -signal.SIGTERM, -signal.SIGINT} else 1
            quick = quick + 1 if time.monotonic() - born < self._patience.quick_seconds else 0
            if quick >= self._patience.quick_deaths or (status == GIVEN_WRONG and lives == 1):
                log.error("Process %d ended with status %d: giving up", number, status)
                self.stop(signal.SIGTERM)
                return status if status > 0 else 1
            pause_s = self._patience.backoff_seconds * 2**quick
            log.warning("Process %d ended with status %d: starting again", number, status)
            await self._pause(pause_s)
        return 0

    async def _live(self, number: int) -> int:
        child = await asyncio.create_subprocess_exec(
            *self._command,
            env={**os.environ, NUMBER: str(number)},
            stdin=PIPE,  # Never written to: it ends when we do, however we end.
            # A terminal's ^C must not reach it twice: the second one would cut it short.
            start_new_session=True,
        )
        self._children[number] = child
        log.info("Process %d is pid %d", number, child.pid)
        if self._stopping.is_set():  # While it was being started.
            child.terminate()
        try:
            return await self._ended(number, child)
        finally:
            del self._children[number]

    async def _ended(self, number: int, child: Process) -> int:
        ending = asyncio.create_task(child.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await asyncio.wait({ending}, timeout=self._patience.stop_seconds)
        if not ending.done():
            log.error("Process %d does not stop: killing it", number)
            child.kill()
        return await ending

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def take_number(environ: MutableMapping[str, str]) -> int | None:
    """Which child this process is, None if it is nobody's; what it starts in turn is not told."""
    number = environ.pop(NUMBER, None)
    return None if number is None else int(number)


def settings_of_child(settings: Settings, number: int) -> Settings:
    """The settings of one child: a port of their own for its metrics, the next one for each."""
    if not settings.metrics_port:  # None at all, or any free one.
        return settings
    return replace(settings, metrics_port=settings.metrics_port + number)


@contextmanager
def leashed() -> Generator[None, None, None]:
    """End this process gracefully when its supervisor is gone; inside a running loop."""
    loop = asyncio.get_running_loop()
    leash = sys.stdin.fileno()

    def let_go() -> None:
        loop.remove_reader(leash)
        log.warning("The supervisor is gone: stopping")
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(leash, let_go)
    try:
        yield
    finally:
        loop.remove_reader(leash)
