"""What an operator asks of a database: numbers, less of it, a copy."""

import asyncio
import os
import re
import resource
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smg.cli import main
from smg.errors import ConfigError, StorageError
from smg.storage import admin
from smg.storage.migrations import upgrade
from smg.storage.sql import SqlStore
from smg.storage.tables import metadata
from tests.contracts.store import ANN, response
from tests.storage.postgres import Postgres


async def filled(url: str) -> None:
    store = await SqlStore.open(url)
    for number in range(3):
        await store.responses.save(response(f"r{number}", created_at=1000 + number))
    await store.responses.begin(response("busy", status="queued", created_at=2000))
    await store.responses.delete("resp_r0", ANN)
    await store.close()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_the_numbers_are_those_of_the_tables(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'smg.db'}"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        url = await postgres.empty_url()
    await filled(url)
    database = admin.open_existing(url)
    await admin.check_current(database)
    found = await admin.stats(database)
    await database.close()
    rows = {table.name: table.rows for table in found.tables}
    assert set(rows) == set(metadata.tables)
    assert (rows["responses"], rows["items"], rows["approvals"]) == (3, 5, 0)
    assert all(table.bytes > 0 for table in found.tables)
    assert (found.oldest_response, found.unfinished) == (1001, 1)


async def test_the_numbers_of_sqlite_add_up_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "smg.db"
    await filled(str(path))
    database = admin.open_existing(str(path))
    found = await admin.stats(database)
    await database.close()
    held = sum(table.bytes for table in found.tables) + found.unused_bytes
    # A few pages are the schema, the migrations' own table and the map of the file.
    assert 0 < path.stat().st_size - held < 10 * 4096


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no database"):
        admin.open_existing(str(tmp_path / "smg.db"))
    assert list(tmp_path.iterdir()) == []


async def test_a_database_of_another_version_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "smg.db"
    sqlite3.connect(path).close()
    database = admin.open_existing(str(path))
    with pytest.raises(ConfigError, match="smg db upgrade"):
        await admin.check_current(database)
    await database.close()


async def test_a_backup_is_whole_and_private_while_the_gateway_writes(tmp_path: Path) -> None:
    path, copy = tmp_path / "smg.db", tmp_path / "copy.db"
    store = await SqlStore.open(str(path))
    await store.responses.save(response("before"))
    database = admin.open_existing(str(path))
    writing = [store.responses.save(response(f"n{number}")) for number in range(20)]
    await asyncio.gather(admin.backup(database, copy), *writing)
    await store.close()
    await database.close()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["copy.db", "smg.db"]
    again = await SqlStore.open(str(copy))
    assert await again.responses.get("resp_before", ANN) == response("before")
    await again.close()
    with sqlite3.connect(copy) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA auto_vacuum").fetchall() == [(2,)]
    connection.close()


async def test_a_backup_overwrites_nothing(tmp_path: Path) -> None:
    path, copy = tmp_path / "smg.db", tmp_path / "copy.db"
    await upgrade(str(path))
    copy.write_text("dear to somebody")
    database = admin.open_existing(str(path))
    with pytest.raises(ConfigError, match="not overwritten"):
        await admin.backup(database, copy)
    with pytest.raises(StorageError, match="No such file or directory"):
        await admin.backup(database, tmp_path / "nowhere" / "copy.db")
    await database.close()
    assert copy.read_text() == "dear to somebody"


async def test_half_a_backup_is_removed(tmp_path: Path) -> None:
    path, copy = tmp_path / "smg.db", tmp_path / "copy.db"
    await upgrade(str(path))
    database = admin.open_existing(str(path))
    await admin.stats(database)  # Its side files are there before files may not grow.
    with largest_file(path.stat().st_size // 2), pytest.raises(StorageError, match="not written"):
        await admin.backup(database, copy)
    await database.close()
    assert not copy.exists()


async def test_postgresql_is_copied_by_its_own_tool(tmp_path: Path, postgres: Postgres) -> None:
    database = admin.open_existing(postgres.url("shared"))
    with pytest.raises(ConfigError, match="pg_dump"):
        await admin.backup(database, tmp_path / "copy.db")
    await database.close()
    assert os.listdir(tmp_path) == []


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["db", *words]) == 0
    return capsys.readouterr().out


def test_the_commands_tell_shrink_and_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'smg.db'}"
    monkeypatch.setenv("SMG_DATABASE_URL", url)
    asyncio.run(filled(url))
    shown = told(capsys, "stats")
    assert re.search(r"^responses +3 +\d+$", shown, re.MULTILINE)
    assert "oldest response       1970-01-01T00:16:41+00:00\nunfinished responses  1\n" in shown
    copy = tmp_path / "copy.db"
    assert told(capsys, "backup", str(copy)) == f"{url} is copied to {copy}\n"
    assert told(capsys, "prune", "--older-than-days", "0.5").startswith("4 rows changed")
    shown = told(capsys, "stats", "--database-url", url)
    assert re.search(r"^responses +1 +\d+$", shown, re.MULTILINE)  # Unfinished: it stays.
    shown = told(capsys, "stats", "--database-url", str(copy))
    assert re.search(r"^responses +3 +\d+$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prune"], "the following arguments are required: --older-than-days"),
        (["prune", "--older-than-days", "nan"], "argument --older-than-days: expected days"),
        (["prune", "--older-than-days", "-1"], "argument --older-than-days: expected days"),
        (["prune", "--older-than-days", "x"], "argument --older-than-days: "),
        (["backup"], "the following arguments are required: FILE"),
        (["stats"], "--database-url: there is no database"),
    ],
)
def test_a_wrong_command_is_told_and_nothing_is_made(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMG_DATABASE_URL", f"sqlite:///{tmp_path / 'smg.db'}")
    assert main(["db", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"smg: {message}")
    assert os.listdir(tmp_path) == []
