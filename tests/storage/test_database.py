"""Connections: URLs, files, and what happens when a database does not do as it is told."""

import asyncio
import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from smg.errors import ConfigError, GatewayError, InvalidRequest, NotFound, StorageError
from smg.storage.database import Database, open_database
from smg.storage.migrations import migrate
from smg.storage.records import Conversation
from smg.storage.sql import SqlStore
from tests.contracts.store import ANN, chain, ids, response
from tests.storage.postgres import Postgres


def run(connection: Connection, *statements: str) -> str | None:
    """The first value of the last statement, if it gives any."""
    for statement in statements:
        result = connection.execute(text(statement))
    return str(result.scalar()) if result.returns_rows else None


async def pragma(database: Database, name: str) -> str | None:
    return await database.write(lambda c: run(c, f"PRAGMA {name}"))


def modes(folder: Path) -> dict[str, int]:
    """The files in a folder, and who may do what with them."""
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}", "sqlite+pysqlite:///{}"])
async def test_a_file_is_named_by_its_path_or_its_url(tmp_path: Path, form: str) -> None:
    path = tmp_path / "new" / "100% smg.db"
    store = await SqlStore.open(form.format(path))
    await chain(store, "a")
    await store.close()
    again = await SqlStore.open(str(path))
    assert await again.responses.get("resp_a", ANN) == response("a")
    await again.close()


@pytest.mark.parametrize("url", [":memory:", "sqlite://", "sqlite:///:memory:"])
async def test_a_database_in_memory_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store = await SqlStore.open(url)
    await chain(store, "a")
    assert await store.responses.get("resp_a", ANN) == response("a")
    await store.close()
    assert modes(tmp_path) == {}


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "://", "postgresql://u:secret@h:port/d"])
def test_a_url_of_no_database_we_know_is_a_mistake_in_the_configuration(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = await SqlStore.open(str(tmp_path / "smg.db"))
        await chain(store, "a")
        found = modes(tmp_path)
        await store.close()
    finally:
        os.umask(before)
    assert found == {"smg.db": 0o600, "smg.db-wal": 0o600, "smg.db-shm": 0o600}


@pytest.mark.parametrize(("synchronous", "number"), [("normal", "1"), ("full", "2")])
async def test_sqlite_is_set_to_survive_crashes(
    tmp_path: Path, synchronous: str, number: str
) -> None:
    database = open_database(
        str(tmp_path / "smg.db"), synchronous="full" if synchronous == "full" else "normal"
    )
    assert await pragma(database, "journal_mode") == "wal"
    assert await pragma(database, "synchronous") == number
    assert await pragma(database, "foreign_keys") == "1"
    assert await pragma(database, "busy_timeout") == "5000"
    assert await pragma(database, "auto_vacuum") == "2"
    await database.close()


async def test_a_database_that_another_process_writes_is_busy_after_a_while(
    tmp_path: Path,
) -> None:
    path = tmp_path / "smg.db"
    store = await SqlStore.open(str(path), busy_seconds=0.05)
    await chain(store, "a")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError) as caught:
        await store.responses.save(response("b"))
    assert "another process is writing" in caught.value.message
    assert await store.responses.get("resp_a", ANN) == response("a")  # Readers do not wait.
    other.execute("ROLLBACK")
    other.close()
    await store.responses.save(response("b"))
    await store.close()


async def test_a_writer_does_not_wait_for_ever_for_its_turn(tmp_path: Path) -> None:
    database = open_database(str(tmp_path / "smg.db"), busy_seconds=0.05)
    entered, leave = threading.Event(), threading.Event()

    def slow(_: Connection) -> None:
        entered.set()
        assert leave.wait(5)

    first = asyncio.create_task(database.write(slow))
    assert await asyncio.to_thread(entered.wait, 5)
    with pytest.raises(StorageError):
        await database.write(slow)
    leave.set()
    await first
    await database.close()


async def test_a_full_disk_is_said_and_overcome_without_a_restart(tmp_path: Path) -> None:
    database = open_database(str(tmp_path / "smg.db"))
    await database.write(lambda c: run(c, "CREATE TABLE t (x)", "PRAGMA max_page_count = 4"))
    fill = "INSERT INTO t VALUES (zeroblob(100000))"
    with pytest.raises(StorageError) as caught:
        await database.write(lambda c: run(c, fill))
    assert "disk is full" in caught.value.message
    await database.write(lambda c: run(c, "PRAGMA max_page_count = 1000"))
    await database.write(lambda c: run(c, fill))
    assert await database.read(lambda c: run(c, "SELECT count(*) FROM t")) == "1"
    await database.close()


async def test_who_reads_cannot_write(tmp_path: Path) -> None:
    database = open_database(str(tmp_path / "smg.db"))
    with pytest.raises(StorageError) as caught:
        await database.read(lambda c: run(c, "CREATE TABLE t (x)"))
    assert "read-only" in caught.value.message
    await database.close()


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "smg.db"
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(StorageError) as caught:
        await SqlStore.open(str(path))
    assert "not a database" in caught.value.message
    with pytest.raises(StorageError):
        await SqlStore.open(str(tmp_path))
    with pytest.raises(StorageError):
        await SqlStore.open(str(path / "below-a-file.db"))


async def test_a_server_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        await migrate(open_database(f"postgresql://postgres@/x?host={tmp_path}", away_seconds=0.1))


async def test_a_server_that_dropped_its_connections_costs_no_request(
    postgres: Postgres,
) -> None:
    url = await postgres.empty_url()
    store = await SqlStore.open(url)
    await chain(store, "a")
    await postgres.end_connections("shared")
    assert await store.responses.get("resp_a", ANN) == response("a")
    await store.responses.save(response("b"))
    await store.close()


async def test_a_cancelled_writer_leaves_all_or_nothing_and_a_working_store(
    store: SqlStore,
) -> None:
    await store.conversations.create(Conversation(id="conv_1", owner=ANN, created_at=1))
    expected: list[str] = []
    for turns in range(0, 60, 3):
        record = response(str(turns), within="conv_1")
        save = asyncio.create_task(store.responses.save(record))
        for _ in range(turns):
            await asyncio.sleep(0)  # One turn of the loop: cancels land at different places.
        save.cancel()
        await asyncio.wait([save], timeout=5)
        try:
            assert await store.responses.get(record.id, ANN) == record
            expected += [f"in_{turns}", f"out_{turns}"]
        except NotFound:
            assert turns == 0  # It had not begun.
    assert ids(await store.conversations.items("conv_1", ANN)) == expected
    assert len(expected) >= 38


@pytest.mark.parametrize("odd", ["\x00", "\ud800", "x" * 100_000, "'; DROP TABLE items; --"])
async def test_an_odd_id_is_refused_or_not_found(store: SqlStore, odd: str) -> None:
    with pytest.raises((NotFound, InvalidRequest)):
        await store.responses.get(odd, ANN)
    with pytest.raises((NotFound, InvalidRequest)):
        await store.conversations.items(odd, ANN)


@pytest.mark.parametrize("number", [2**31, 2**63, 10**30])
async def test_a_number_that_is_too_large_is_refused_or_after_everything(
    store: SqlStore, number: int
) -> None:
    await chain(store, "a")
    try:
        assert await store.journal.events("resp_a", ANN, after=number) == []
    except GatewayError as error:
        assert isinstance(error, InvalidRequest)  # noqa: PT017 - either is right
