"""A test's hold on a stand-in server process."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("stand_in_server.py")
PATIENCE_S = 5.0


class Process:
    """A running stand-in server."""

    def __init__(self, module: str, tls: Path | None = None) -> None:
        arguments = [module] if tls is None else [module, str(tls)]
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), *arguments], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:  # It has said why.
            self.end()
            raise RuntimeError("The stand-in did not start")
        ports = json.loads(line)
        self.port: int = ports["port"]
        self.control_port: int = ports["control"]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def status(self) -> int | None:
        """How it ended, if it has."""
        return self._process.poll()

    def end(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


class StandIn:
    """What one test tells a server to do, and hears of it."""

    def __init__(
        self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.address = process.address
        self._process = process
        self._reader = reader
        self._writer = writer
        self._facts: list[dict[str, Any]] = []

    async def play(
        self,
        *generate: dict[str, Any],
        answers: dict[str, Any] | None = None,
        statuses: dict[str, str] | None = None,
    ) -> None:
        """Set the script: the steps of each generation, and the unary calls' answers.

        A method in `statuses` fails with that status, or with "WAIT" never answers.
        """
        await self._order(
            script={"generate": generate, "answers": answers or {}, "statuses": statuses or {}}
        )
        self._facts.clear()

    async def go_on(self) -> None:
        """Let a generation that waits go on."""
        await self._order(go_on=True)

    async def heard(self, call: str) -> dict[str, Any]:
        """The request of the next call of this method, waiting for it if need be."""
        fact = await self._fact(lambda fact: fact.get("call") == call)
        request: dict[str, Any] = fact["request"]
        return request

    async def cancelled(self) -> str:
        """The id of the next generation that was cancelled, waiting for it if need be."""
        fact = await self._fact(lambda fact: "cancelled" in fact)
        request_id: str = fact["cancelled"]
        return request_id

    async def calls(self) -> list[str]:
        """The methods called and not asked for yet, and "cancelled" for what was cancelled."""
        await self._order()
        return [fact.get("call", "cancelled") for fact in self._facts]

    async def _order(self, **order: Any) -> None:
        self._writer.write(json.dumps(order).encode() + b"\n")
        while "done" not in (fact := await self._read()):
            self._facts.append(fact)

    async def _fact(self, wanted: Any) -> dict[str, Any]:
        for at, fact in enumerate(self._facts):
            if wanted(fact):
                return self._facts.pop(at)
        while not wanted(fact := await self._read()):
            self._facts.append(fact)
        return fact

    async def _read(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            line = await self._reader.readline()
        assert line, f"The stand-in is gone: {self._process.status}"
        fact: dict[str, Any] = json.loads(line)
        return fact


@asynccontextmanager
async def directing(process: Process) -> AsyncIterator[StandIn]:
    """Direct a server for the length of a test."""
    reader, writer = await asyncio.open_connection("127.0.0.1", process.control_port)
    try:
        yield StandIn(process, reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()
