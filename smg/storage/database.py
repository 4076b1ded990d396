"""Connections: a URL goes in, units of work are run, and driver errors come out as ours.

A unit of work is a plain function of a connection; it is one transaction, all of it or nothing.
SQLite is written by one thread through one connection, whose transactions take the write lock at
their beginning, and read by a few others. PostgreSQL is spoken to without threads. Knows no table.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool, StaticPool

from smg.errors import ConfigError, Conflict, InvalidRequest, StorageError
from smg.folders import keep_names, make_folder

T = TypeVar("T")
Work = Callable[[Connection], T]  # Does not wait: it runs in a thread, or under greenlets.
Synchronous = Literal["normal", "full"]

BUSY_SECONDS = 5.0  # How long a writer waits for another process, and for its own.
SQLITE_READERS = 4
POSTGRESQL_CONNECTIONS = 10

MEMORY = {None, "", ":memory:"}

# No row: the driver's own words follow.
SQLITE_TROUBLE = {
    "SQLITE_BUSY": "another process is writing to it",
    "SQLITE_LOCKED": "another process is writing to it",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_READONLY": "it is read-only",
    "SQLITE_IOERR": "the disk does not answer",
    "SQLITE_CANTOPEN": "the file cannot be opened",
    "SQLITE_CORRUPT": "the file is damaged",
    "SQLITE_NOTADB": "the file is not a database",
}


class Database(Protocol):
    """One database, open."""

    @property
    def is_sqlite(self) -> bool:
        """Whether transactions are already one after the other."""
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


class SqliteDatabase:
    """A file, or memory. A unit of work is one hop to a thread, however many statements it has.

    A driver that hops for each statement (aiosqlite) was measured at 22 hops and three times the
    CPU for one saved response (docs/decisions/0012).
    """

    is_sqlite = True

    def __init__(self, writer: Engine, reader: Engine, line: "_Line") -> None:
        self._writer = writer
        self._reader = reader
        self._writers = line
        self._writing = ThreadPoolExecutor(1, "smg-sqlite-writer")
        is_one = reader is writer
        self._readers = line if is_one else None
        self._reading = (
            self._writing if is_one else ThreadPoolExecutor(SQLITE_READERS, "smg-sqlite-reader")
        )

    async def write(self, work: Work[T]) -> T:
        """Run a unit of work that changes something."""
        return await _uninterrupted(self._run(self._writing, self._writer, self._writers, work))

    async def read(self, work: Work[T]) -> T:
        """Run a unit of work that sees one state of the database."""
        return await _uninterrupted(self._run(self._reading, self._reader, self._readers, work))

    async def close(self) -> None:
        """Close all connections, after the transaction that is being written."""
        async with _turn_in(self._writers):
            self._reading.shutdown()
            self._writing.shutdown()
            self._reader.dispose()
            self._writer.dispose()

    async def _run(
        self, threads: Executor, engine: Engine, line: "_Line | None", work: Work[T]
    ) -> T:
        async with _turn_in(line):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(threads, _transaction, engine, work)


def _transaction(engine: Engine, work: Work[T]) -> T:
    with database_errors(), engine.begin() as connection:
        return work(connection)


class PostgresDatabase:
    """A PostgreSQL server."""

    is_sqlite = False

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # Several selects of one unit of work must not see a change in between.
        self._reader = engine.execution_options(isolation_level="REPEATABLE READ")

    async def write(self, work: Work[T]) -> T:
        """Run a unit of work that changes something."""
        return await _uninterrupted(self._run(self._engine, work))

    async def read(self, work: Work[T]) -> T:
        """Run a unit of work that sees one state of the database."""
        return await _uninterrupted(self._run(self._reader, work))

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def _run(self, engine: AsyncEngine, work: Work[T]) -> T:
        with database_errors():
            async with engine.begin() as connection:
                return await connection.run_sync(work)


class _Line:
    """Writers of this process, one after the other; none waits for ever."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.lock = asyncio.Lock()


def open_database(
    url: str, *, synchronous: Synchronous = "normal", busy_seconds: float = BUSY_SECONDS
) -> Database:
    """The database at a URL or at a file's path; nothing is connected yet.

    `busy_seconds` is how long a writer waits for its turn, and then for another process.

    Raises:
        ConfigError: the URL names no database that this gateway can use.
        StorageError: the file cannot be made.
    """
    parsed = _parsed(url)
    match parsed.get_backend_name():
        case "sqlite" if parsed.database in MEMORY:
            return _memory(parsed.set(database=":memory:"), busy_seconds)
        case "sqlite":
            return _file(parsed, synchronous, busy_seconds)
        case _:
            return _postgresql(parsed)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None if it is in memory, or no SQLite.

    Raises:
        ConfigError: the URL names no database that this gateway can use.
    """
    parsed = _parsed(url)
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database not in MEMORY
    return Path(parsed.database or "") if is_file else None


def bytes_on_disk(file: Path) -> int:
    """How much a SQLite file takes, with what was written lately and is not yet in it."""
    total = 0
    for each in (file, file.with_name(f"{file.name}-wal")):
        with suppress(FileNotFoundError):
            total += each.stat().st_size
    return total


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
    return parsed.set(drivername=drivers[scheme])


def _memory(url: URL, busy_seconds: float) -> SqliteDatabase:
    # One connection for everybody: a second one would open a second, empty database.
    arguments = {"isolation_level": None, "check_same_thread": False}
    engine = create_engine(url, connect_args=arguments, hide_parameters=True, poolclass=StaticPool)
    _prepare_sqlite(engine, "BEGIN IMMEDIATE", [])
    return SqliteDatabase(engine, engine, _Line(busy_seconds))


def _file(url: URL, synchronous: Synchronous, busy_seconds: float) -> SqliteDatabase:
    _create_private(Path(url.database or ""))
    options: dict[str, Any] = {
        "connect_args": {
            # The driver leaves transactions to us: its own would take the write lock too late.
            "isolation_level": None,
            "timeout": busy_seconds,
            # The pool gives a connection to one thread at a time.
            "check_same_thread": False,
        },
        "hide_parameters": True,
        "poolclass": QueuePool,
        "max_overflow": 0,
    }
    writer = create_engine(url, pool_size=1, **options)
    pragmas = ["auto_vacuum = INCREMENTAL", "journal_mode = WAL", f"synchronous = {synchronous}"]
    # On macOS a plain sync leaves it to the drive when to write; elsewhere this changes nothing.
    pragmas.append(f"fullfsync = {synchronous == 'full'}")
    _prepare_sqlite(writer, "BEGIN IMMEDIATE", pragmas)
    reader = create_engine(url, pool_size=SQLITE_READERS, **options)
    _prepare_sqlite(reader, "BEGIN", ["query_only = ON"])
    return SqliteDatabase(writer, reader, _Line(busy_seconds))


def _create_private(path: Path) -> None:
    """Conversations are nobody else's business: SQLite's side files get the same mode."""
    try:
        is_new = not path.exists()
        make_folder(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o600))
        if is_new:
            keep_names(path.parent)
    except OSError as error:
        raise StorageError(f"The database {path} cannot be opened: {error.strerror}") from error


def _prepare_sqlite(engine: Engine, begin: str, pragmas: Sequence[str]) -> None:
    def prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for pragma in ("foreign_keys = ON", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", lambda c: c.exec_driver_sql(begin))


def _postgresql(url: URL) -> PostgresDatabase:
    if "sslmode" in url.query:  # libpq's word for what asyncpg calls ssl
        mode = url.query["sslmode"]
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    try:
        engine = create_async_engine(
            url,
            pool_size=POSTGRESQL_CONNECTIONS,
            pool_pre_ping=True,  # A restarted server costs a ping, not a request.
            hide_parameters=True,
            connect_args={"timeout": BUSY_SECONDS, "command_timeout": 60.0},
        )
    except ImportError as error:
        raise ConfigError("PostgreSQL needs a driver: pip install 'smg[postgres]'") from error
    return PostgresDatabase(engine)


@asynccontextmanager
async def _turn_in(line: _Line | None) -> AsyncIterator[None]:
    if line is None:
        yield
        return
    try:
        async with asyncio.timeout(line.seconds):
            await line.lock.acquire()
    except TimeoutError as error:
        raise StorageError("The database is busy: too much is waiting to be written") from error
    try:
        yield
    finally:
        line.lock.release()


async def _uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """A cancelled caller waits for its transaction: half of one would cost the connection."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn a driver's failures into ours; SQL and its parameters stay out of the messages."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict("This is stored already, or what it belongs to is gone") from error
    except (DBAPIError, UnicodeEncodeError, OverflowError) as error:
        if _is_bad_value(error):
            raise InvalidRequest("The database cannot hold this character or number") from error
        raise StorageError(f"The database did not take it: {_trouble(error)}") from error
    except (SQLAlchemyError, OSError) as error:
        raise StorageError(f"The database did not take it: {_trouble(error)}") from error


def _is_bad_value(error: Exception) -> bool:
    if not isinstance(error, DBAPIError):
        return True
    cause = getattr(
        error.orig, "__cause__", None
    )  # What asyncpg said, inside what SQLAlchemy made of it.
    # asyncpg's own checks are ValueErrors; the server's data exceptions are class 22.
    return isinstance(cause, ValueError) or getattr(cause, "sqlstate", "").startswith("22")


def _trouble(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        # Extended codes (SQLITE_READONLY_DBMOVED) begin with the plain one.
        plain = "_".join(cause.sqlite_errorname.split("_")[:2])
        return SQLITE_TROUBLE.get(plain, str(cause))
    # A name only: PostgreSQL's messages quote values.
    return type(getattr(cause, "__cause__", None) or cause).__name__
