"""Migrations: they make exactly our tables, once, and never the wrong way."""

import asyncio
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from smg.errors import ConfigError, StorageError
from smg.storage.database import Database, open_database
from smg.storage.migrations import PACKAGE, migrate, upgrade
from smg.storage.sql import SqlStore
from smg.storage.tables import metadata
from tests.contracts.store import ANN, chain, response
from tests.storage.postgres import Postgres


@pytest.fixture(params=["sqlite-file", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database that can be opened twice."""
    if request.param == "sqlite-file":
        return f"sqlite:///{tmp_path / 'smg.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return await server.new_url()


async def execute(url: str, statement: str) -> None:
    database = open_database(url)
    await database.write(lambda c: c.execute(text(statement)))
    await database.close()


async def differences(database: Database) -> Any:
    def compare(connection: Connection) -> Any:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    return await database.read(compare)


async def table_names(url: str) -> set[str]:
    database = open_database(url)
    names = await database.read(lambda connection: set(inspect(connection).get_table_names()))
    await database.close()
    return names


async def test_migrations_add_up_to_the_tables(url: str) -> None:
    await upgrade(url)
    assert await table_names(url) == {*metadata.tables, "alembic_version"}
    database = open_database(url)
    assert await differences(database) == []
    await database.write(lambda c: c.execute(text("ALTER TABLE steps ADD COLUMN odd TEXT")))
    assert await differences(database) != []  # The comparison sees something at all.
    await database.close()


async def test_a_database_that_is_up_to_date_keeps_what_it_has(url: str) -> None:
    store = await SqlStore.open(url)
    await chain(store, "a")
    await store.close()
    await upgrade(url)
    store = await SqlStore.open(url)
    assert await store.responses.get("resp_a", ANN) == response("a")
    await store.close()


async def test_a_database_of_a_newer_gateway_is_refused(url: str) -> None:
    await upgrade(url)
    await execute(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="newer version \\(9999\\)"):
        await upgrade(url)
    with pytest.raises(ConfigError):
        await SqlStore.open(url)


async def test_a_migration_that_fails_leaves_nothing_behind(url: str) -> None:
    await execute(url, "CREATE TABLE events (not_ours INTEGER)")
    with pytest.raises(StorageError):
        await upgrade(url)
    assert await table_names(url) == {"events"}
    await execute(url, "DROP TABLE events")
    await upgrade(url)
    assert await table_names(url) >= set(metadata.tables)


KILLED = """
import asyncio, os, signal, sys
from sqlalchemy import Engine, event
from smg.storage.migrations import upgrade

left = int(sys.argv[2])

def pass_by(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(Engine, "before_cursor_execute", pass_by)
event.listen(Engine, "commit", pass_by)
asyncio.run(upgrade(sys.argv[1]))
print(-left)
"""


async def killed_upgrade(url: str, at: int) -> tuple[int | None, str]:
    """How a process ends that dies at a statement; how many there were, if it lives."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, url, str(at)), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode()


async def test_a_migration_that_is_killed_leaves_nothing_behind_and_the_next_one_does_it(
    url: str,
) -> None:
    other = f"{url}.other" if url.startswith("sqlite") else url
    status, told = await killed_upgrade(other, 0)
    assert status == 0
    statements = int(told)
    if other == url:
        await execute(url, "DROP SCHEMA public CASCADE")
        await execute(url, "CREATE SCHEMA public")
    # In the middle, at the last statement, and before the commit of all.
    for at in (statements // 2, statements - 1, statements):
        assert await killed_upgrade(url, at) == (-signal.SIGKILL, "")
        assert await table_names(url) == set()
    await upgrade(url)
    assert await table_names(url) == {*metadata.tables, "alembic_version"}


async def test_gateways_that_start_together_do_not_collide(url: str) -> None:
    databases = [open_database(url) for _ in range(4)]
    await asyncio.gather(*map(migrate, databases))
    assert await differences(databases[0]) == []
    for database in databases:
        await database.close()


async def test_processes_that_start_together_do_not_collide(tmp_path: Path) -> None:
    path = str(tmp_path / "smg.db")
    program = (
        "import asyncio, sys; from smg.storage.migrations import upgrade; "
        "asyncio.run(upgrade(sys.argv[1]))"
    )
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, path, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    for process in started:
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, errors.decode()) == (0, "")
    [head] = scripts().get_heads()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(head,)]
    connection.close()


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(PACKAGE.parent / "migrations"))
    return ScriptDirectory.from_config(config)


def test_there_is_one_line_of_migrations_and_no_way_back() -> None:
    directory = scripts()
    assert len(directory.get_heads()) == 1
    for script in directory.walk_revisions():
        assert not hasattr(script.module, "downgrade")
