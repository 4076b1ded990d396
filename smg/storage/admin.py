"""What an operator asks of a database: how full it is, and a copy of it.

An open database comes in; numbers, or a file, come out. Changes nothing, and brings nothing up to
date. Knows neither the command line nor HTTP.
"""

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Table, func, select

from smg.errors import ConfigError, StorageError
from smg.storage.database import Database, open_database, sqlite_file
from smg.storage.migrations import is_current
from smg.storage.records import UNFINISHED
from smg.storage.tables import metadata, responses

BUSY_SECONDS = 30.0  # Longer than a gateway's: an operator would rather wait than try again.


@dataclass(frozen=True, slots=True)
class TableSize:
    """How much one table holds; its indexes count as its own."""

    name: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Stats:
    """How full a database is."""

    tables: tuple[TableSize, ...]
    unused_bytes: int
    """What a SQLite file holds beside the tables, for rows to come."""
    oldest_response: int | None
    """Unix seconds of the oldest response that clients can see."""
    unfinished: int


def open_existing(url: str) -> Database:
    """The database at this URL, which must be there already; made by nobody else than a gateway.

    Raises:
        ConfigError: the URL is wrong, or its file is not there.
        StorageError: the file cannot be opened.
    """
    file = sqlite_file(url)
    if file is not None and not file.is_file():
        raise ConfigError(f"--database-url: there is no database {str(file)!r}")
    return open_database(url, busy_seconds=BUSY_SECONDS)


async def check_current(database: Database) -> None:
    """Refuse a database whose tables are not those of this version.

    Raises:
        ConfigError: it is older, or newer.
    """
    if not await database.read(is_current):
        raise ConfigError("The database is not of this version; `smg db upgrade` says more")


async def stats(database: Database) -> Stats:
    """How full the database is, at one moment.

    Raises:
        StorageError: it does not answer.
    """
    return await database.read(_stats)


def _stats(connection: Connection) -> Stats:
    tables = sorted(metadata.tables.values(), key=lambda table: table.name)
    sizes = _sqlite_sizes if connection.dialect.name == "sqlite" else _postgresql_sizes
    found = sizes(connection, tables)
    of_unfinished = select(func.count()).where(
        responses.c.status.in_(UNFINISHED), responses.c.deleted.is_(False)
    )
    oldest = select(func.min(responses.c.created_at)).where(responses.c.deleted.is_(False))
    return Stats(
        tables=tuple(
            TableSize(
                table.name,
                connection.execute(select(func.count()).select_from(table)).scalar_one(),
                found[table.name],
            )
            for table in tables
        ),
        unused_bytes=_unused(connection),
        oldest_response=connection.execute(oldest).scalar_one(),
        unfinished=connection.execute(of_unfinished).scalar_one(),
    )


def _sqlite_sizes(connection: Connection, tables: list[Table]) -> dict[str, int]:
    sizes = connection.exec_driver_sql(
        "SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_master USING (name) "
        "WHERE aggregate = TRUE GROUP BY tbl_name"
    )
    known = {name: int(size) for name, size in sizes}
    return {table.name: known[table.name] for table in tables}


def _postgresql_sizes(connection: Connection, tables: list[Table]) -> dict[str, int]:
    return {
        table.name: connection.execute(select(func.pg_total_relation_size(table.name))).scalar_one()
        for table in tables
    }


def _unused(connection: Connection) -> int:
    if connection.dialect.name != "sqlite":
        return 0
    pages = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())


async def backup(database: Database, target: Path) -> None:
    """Copy a SQLite database into a new file, as it is at one moment; gateways go on meanwhile.

    Raises:
        ConfigError: it is no SQLite database, or the file is there already.
        StorageError: the copy could not be written; nothing is left of it.
    """
    if not database.is_sqlite:
        raise ConfigError("smg db backup copies SQLite files; for PostgreSQL use pg_dump")
    await database.read(lambda connection: write_copy(connection, target))


def write_copy(connection: Connection, target: Path) -> None:
    """Copy the SQLite database of a connection into a new file.

    Raises:
        ConfigError: the file is there already.
        StorageError: the copy could not be written; nothing is left of it.
    """
    try:
        # Conversations are nobody else's business.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise ConfigError(f"{str(target)!r} is there already; it is not overwritten") from None
    except OSError as error:
        raise StorageError(f"{str(target)!r} cannot be written: {error.strerror}") from error
    source = connection.connection.driver_connection
    assert isinstance(source, sqlite3.Connection)
    try:
        with closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
    except sqlite3.Error as error:
        target.unlink()
        raise StorageError(f"{str(target)!r} was not written: {error}") from error
