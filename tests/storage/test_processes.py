"""Several processes and sudden ends: what was acknowledged is there."""

import asyncio
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from smg.storage.sql import SqlStore
from tests.contracts.store import ANN, ids, response
from tests.storage.postgres import Postgres

START_SECONDS = 30  # A Python process with all our imports, on a busy machine.


@pytest.fixture(params=["sqlite-file", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database that several processes can open."""
    if request.param == "sqlite-file":
        return f"sqlite:///{tmp_path / 'smg.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return await server.empty_url()


async def writer(url: str, name: str, count: int) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.storage.writer", url, name, str(count)),
        stdout=PIPE,
        stderr=PIPE,
    )


async def acknowledged(process: Process) -> str:
    """The id of the next response whose `save` has returned."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
    return line.decode().partition(" ")[0]


async def test_what_was_saved_survives_kill_9(url: str, tmp_path: Path) -> None:
    process = await writer(url, "a", 100_000)
    saved = [await acknowledged(process) for _ in range(20)]
    process.kill()
    rest, _ = await asyncio.wait_for(process.communicate(), 5)
    # The last line may have been cut by the kill; its response is then not acknowledged.
    saved += [line.partition(b" ")[0].decode() for line in rest.splitlines() if b" ann" in line]

    store = await SqlStore.open(url)
    names = [name.removeprefix("resp_") for name in saved]
    assert names == [f"a{number}" for number in range(len(saved))]
    assert await store.responses.get(saved[0], ANN) == response("a0")
    assert ids(await store.responses.history(saved[-1], ANN)) == [
        f"{where}_{name}" for name in names for where in ("in", "out")
    ]
    await store.close()
    if url.startswith("sqlite"):
        connection = sqlite3.connect(tmp_path / "smg.db")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.close()


async def test_several_processes_write_one_database(url: str) -> None:
    store = await SqlStore.open(url)
    processes = [await writer(url, name, 50) for name in "ab"]
    for number in range(50):
        await store.responses.save(response(f"c{number}"))
    for process in processes:
        _, errors = await asyncio.wait_for(process.communicate(), START_SECONDS)
        assert (process.returncode, errors.decode()) == (0, "")
    for name in "abc":
        assert await store.responses.get(f"resp_{name}0", ANN) == response(f"{name}0")
    for name in "ab":
        assert len(await store.responses.history(f"resp_{name}49", ANN)) == 100
    await store.close()
