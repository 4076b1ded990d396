"""The scripted engine as a process of its own, for the demo, benchmarks and tests."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from smg.errors import ConfigError

START_SECONDS = 60.0
STOP_SECONDS = 5.0


@asynccontextmanager
async def scripted_engine(*flags: str) -> AsyncGenerator[str, None]:
    """A running engine's worker URL; it ends with the block, and if this process dies."""
    command: Sequence[str] = (
        *(sys.executable, "-m", "smg.testing.engine", "--port", "0", "--announce"),
        *("--parent-pid", str(os.getpid()), *flags),
    )
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            line = (await process.stdout.readline()).decode().strip()
        if not line.startswith("listening on "):
            raise ConfigError("The scripted engine did not start; its output above says why")
        yield f"grpc://{line.removeprefix('listening on ')}"
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
