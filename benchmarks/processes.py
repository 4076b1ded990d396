"""The processes under load: started on free ports, ended with their block, and what they use.

CPU and memory come from /proc and count a process with all its children.
"""

import asyncio
import os
import socket
import urllib.request
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from smg.errors import ConfigError

START_SECONDS = 60.0
STOP_SECONDS = 15.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Running:
    """A process that listens."""

    name: str
    pid: int
    port: int

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        return sum(_cpu_ticks(pid) for pid in _family(self.pid)) / TICKS

    def memory_mib(self, field: str = "VmRSS") -> float:
        """Resident memory now, or at its highest (VmHWM)."""
        return sum(_kib(pid, field) for pid in _family(self.pid)) / 1024


@asynccontextmanager
async def running(
    name: str, port: int, command: Sequence[str], log: Path, ready: str | None = None
) -> AsyncGenerator[Running, None]:
    """A process that is ready when its port answers, at the path `ready` if one is given."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await asyncio.to_thread(_answers, port, ready):
                if process.returncode is not None:
                    raise ConfigError(f"{name} ended at start: {_end_of(log)}")
                await asyncio.sleep(0.1)
        yield Running(name, process.pid, port)
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _answers(port: int, ready: str | None) -> bool:
    try:
        if ready is None:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # Not yet: nobody listens, or it says 503.
        return False


def _family(pid: int) -> list[int]:
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += _family(int(child))
    return found


def _cpu_ticks(pid: int) -> int:
    # The name in parentheses may hold spaces; after it come the fields from the third on.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:13])


def _kib(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)
