"""Gateways that start quickly: forked from a process that has loaded the libraries already.

What is started is a whole gateway in a process of its own, killed as any other; only the two
seconds of importing are shared. For tests that start dozens. Orders come in over a socket, each
with a pipe for what the new process says; the process id goes back.
"""

import asyncio
import json
import logging
import os
import runpy
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from smg import faults

log = logging.getLogger(__name__)

MAX_ORDER = 64 * 1024
PATIENCE_SECONDS = 60.0
"""For loading the libraries, once."""


@dataclass(frozen=True)
class Born:
    """A process; what it says ends when it does."""

    pid: int
    said: asyncio.StreamReader

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it is gone."""
        if not self.said.at_eof():
            os.kill(self.pid, number)


class Nursery:
    """Where gateways come from."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._one_at_a_time = asyncio.Lock()

    async def start(self, flags: Sequence[str], environment: Mapping[str, str]) -> Born:
        """Start a gateway with these flags, and these variables on top of our own."""
        ours, theirs = os.pipe()
        try:
            async with self._one_at_a_time, asyncio.timeout(PATIENCE_SECONDS):
                order = json.dumps({"flags": list(flags), "environment": dict(environment)})
                socket.send_fds(self._line, [order.encode()], [theirs])
                answer = await asyncio.get_running_loop().sock_recv(self._line, 32)
        finally:
            os.close(theirs)
        return Born(int(answer), await _reader(ours))


async def _reader(pipe: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
    )
    return reader


@asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    """A nursery for the length of the block; gateways that are still there outlive it."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "smg.testing.nursery", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
            )
        ours.setblocking(False)
        try:
            yield Nursery(ours)
        finally:
            ours.close()
            await process.wait()


def main(line: int) -> None:
    """Serve orders until the other end is closed."""
    import smg.server  # noqa: F401, PLC0415 - what a gateway imports, loaded once for all

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The system buries them.
    with socket.socket(fileno=line) as orders:
        while True:
            order, pipes, _, _ = socket.recv_fds(orders, MAX_ORDER, 1)
            if not order:
                return
            child = os.fork()
            if not child:
                orders.close()
                _live(json.loads(order), pipes[0])
            os.close(pipes[0])
            orders.send(str(child).encode())


def _live(order: Mapping[str, Any], pipe: int) -> NoReturn:
    """Be a gateway, to the end of the process."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(pipe, sys.stderr.fileno())
        os.close(pipe)
        os.environ.update(order["environment"])
        faults.order(os.environ.get(faults.VARIABLE, ""))
        sys.argv = ["smg", *order["flags"]]
        runpy.run_module("smg", run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except Exception:
        log.exception("A gateway ended by a mistake")
    finally:
        sys.stderr.flush()
        os._exit(status)  # Not back into the nursery.


if __name__ == "__main__":
    main(int(sys.argv[1]))
