"""Databases: a URL goes in, what runs units of work comes out.

A unit of work is a plain function of a connection; it is one transaction, all of it or nothing.
Knows no table.
"""

from pathlib import Path
from typing import Protocol

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from smg.errors import ConfigError
from smg.storage.postgresql import AWAY_SECONDS, postgresql
from smg.storage.sqlite import Synchronous, sqlite_in_file, sqlite_in_memory
from smg.storage.work import BUSY_SECONDS, T, Work

MEMORY = {None, "", ":memory:"}


class Database(Protocol):
    """One database, open."""

    @property
    def is_sqlite(self) -> bool:
        """Whether transactions are already one after the other."""
        ...

    @property
    def damage(self) -> str | None:
        """Why nothing can be stored until the gateway is started again; `None`: it can."""
        ...

    async def write(self, work: Work[T]) -> T:
        """Run a unit of work that changes something."""
        ...

    async def read(self, work: Work[T]) -> T:
        """Run a unit of work that sees one state of the database."""
        ...

    async def close(self) -> None:
        """Close all connections, after the transaction that is being written."""
        ...


def open_database(
    url: str,
    *,
    synchronous: Synchronous = "normal",
    busy_seconds: float = BUSY_SECONDS,
    away_seconds: float = AWAY_SECONDS,
) -> Database:
    """The database at a URL or at a file's path; nothing is connected yet.

    `busy_seconds` is how long a writer of a file waits for its turn, and then for another process;
    `away_seconds` how long a server may be away.

    Raises:
        ConfigError: the URL names no database that this gateway can use.
        StorageError: the file cannot be made.
    """
    parsed = _parsed(url)
    match parsed.get_backend_name():
        case "sqlite" if parsed.database in MEMORY:
            return sqlite_in_memory(busy_seconds)
        case "sqlite":
            return sqlite_in_file(Path(parsed.database or ""), synchronous, busy_seconds)
        case _:
            return postgresql(parsed, away_seconds)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None if it is in memory, or no SQLite.

    Raises:
        ConfigError: the URL names no database that this gateway can use.
    """
    parsed = _parsed(url)
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database not in MEMORY
    return Path(parsed.database or "") if is_file else None


def is_in_memory(url: str) -> bool:
    """Whether the database at a URL goes with its process.

    Raises:
        ConfigError: the URL names no database that this gateway can use.
    """
    parsed = _parsed(url)
    return parsed.get_backend_name() == "sqlite" and parsed.database in MEMORY


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url) if "://" in url else URL.create("sqlite", database=url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError("The database URL cannot be read") from error
    drivers = {
        "sqlite": "sqlite+pysqlite",
        "postgresql": "postgresql+asyncpg",
        "postgres": "postgresql+asyncpg",
    }
    scheme = parsed.drivername.partition("+")[0]
    if scheme not in drivers:
        raise ConfigError(
            f"Unknown database {scheme!r}; use a file's path, sqlite:///PATH or postgresql://..."
        )
    if scheme == "sqlite" and parsed.query:
        raise ConfigError("A sqlite:/// URL takes no options (there is a '?' in it)")
    return parsed.set(drivername=drivers[scheme])
