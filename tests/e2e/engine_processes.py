"""Engines that are processes of their own: they can be killed, frozen, and started again."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.e2e.gateway import PATIENCE_SECONDS


class EngineProcess:
    """The scripted engine at one port, with a pause before each token."""

    def __init__(self, itl_ms: float) -> None:
        self.port = 0
        """Any free one at first, and the same from then on."""
        self._itl_ms = itl_ms
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"grpc://{self.address}"

    async def start(self) -> None:
        """Start it, or start it again where it was."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "smg.testing.engine", "--announce"),
            *("--port", str(self.port), "--itl-ms", str(self._itl_ms)),
            *("--parent-pid", str(os.getpid())),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            line = (await self._process.stdout.readline()).decode()
        self.port = int(line.rpartition(":")[2])

    async def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def freeze(self) -> None:
        """Let it hang: its port is open, and nobody answers. Only `kill` ends that."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)


@asynccontextmanager
async def engine_processes(*itl_ms: float) -> AsyncIterator[list[EngineProcess]]:
    """One engine for each pause, for as long as the block lasts."""
    engines = [EngineProcess(each) for each in itl_ms]
    try:
        await asyncio.gather(*(engine.start() for engine in engines))
        yield engines
    finally:
        await asyncio.gather(*(engine.kill() for engine in engines))
