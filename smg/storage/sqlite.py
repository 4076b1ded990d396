"""SQLite: one writer thread and a few that read, on the standard library's driver.

A unit of work is one hop to a thread, however many statements it has: a driver that hops for each
statement (aiosqlite) was measured at 22 hops and three times the CPU for one saved response
(docs/decisions/0012). Knows no table.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool, StaticPool

from smg.errors import StorageDamaged, StorageError
from smg.storage.file import DatabaseFile
from smg.storage.work import T, Work, database_errors, uninterrupted

Synchronous = Literal["normal", "full"]

READERS = 4


class SqliteDatabase:
    """A file, or memory."""

    is_sqlite = True

    def __init__(
        self, writer: Engine, reader: Engine, line: "_Line", file: DatabaseFile | None = None
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._writers = line
        self._file = file
        self._writing = ThreadPoolExecutor(1, "smg-sqlite-writer")
        is_one = reader is writer
        self._readers = line if is_one else None
        self._reading = (
            self._writing if is_one else ThreadPoolExecutor(READERS, "smg-sqlite-reader")
        )

    @property
    def damage(self) -> str | None:
        """Why nothing can be stored until the gateway is started again; `None`: it can."""
        return self._file.damage if self._file is not None else None

    async def write(self, work: Work[T]) -> T:
        """Run a unit of work that changes something."""
        return await uninterrupted(self._run(self._writing, self._writers, self._written, work))

    async def read(self, work: Work[T]) -> T:
        """Run a unit of work that sees one state of the database."""
        return await uninterrupted(self._run(self._reading, self._readers, self._read, work))

    async def close(self) -> None:
        """Close all connections, after the transaction that is being written."""
        async with _turn_in(self._writers):
            self._reading.shutdown()
            self._writing.shutdown()
            self._reader.dispose()
            self._writer.dispose()

    async def _run(
        self,
        threads: Executor,
        line: "_Line | None",
        transaction: Callable[[Work[T]], T],
        work: Work[T],
    ) -> T:
        async with _turn_in(line):
            return await asyncio.get_running_loop().run_in_executor(threads, transaction, work)

    def _read(self, work: Work[T]) -> T:
        return self._transaction(self._reader, work)

    def _written(self, work: Work[T]) -> T:
        result = self._transaction(self._writer, work)
        if self._file is not None:
            self._file.check_written()
        return result

    def _transaction(self, engine: Engine, work: Work[T]) -> T:
        if self._file is not None:
            self._file.check()
        try:
            with database_errors(), engine.begin() as connection:
                return work(connection)
        except StorageDamaged as error:
            if self._file is not None:
                self._file.condemn(error.damage)
            raise


class _Line:
    """Writers of this process, one after the other; none waits for ever."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.lock = asyncio.Lock()


def sqlite_in_memory(busy_seconds: float) -> SqliteDatabase:
    """An empty database that goes with the process."""
    # One connection for everybody: a second one would open a second, empty database.
    engine = create_engine(
        "sqlite:///:memory:",
        connect_args={"isolation_level": None, "check_same_thread": False},
        hide_parameters=True,
        poolclass=StaticPool,
    )
    _prepare(engine, "BEGIN IMMEDIATE", [])
    return SqliteDatabase(engine, engine, _Line(busy_seconds))


def sqlite_in_file(path: Path, synchronous: Synchronous, busy_seconds: float) -> SqliteDatabase:
    """The database in a file, which is made if it is not there.

    Raises:
        StorageError: the file cannot be made.
    """
    file = DatabaseFile(path)
    options: dict[str, Any] = {
        "creator": lambda: _connect(path, busy_seconds),
        "hide_parameters": True,
        "poolclass": QueuePool,
        "max_overflow": 0,
    }
    writer = create_engine("sqlite://", pool_size=1, **options)
    pragmas = ["auto_vacuum = INCREMENTAL", "journal_mode = WAL", f"synchronous = {synchronous}"]
    # On macOS a plain sync leaves it to the drive when to write; elsewhere this changes nothing.
    pragmas.append(f"fullfsync = {synchronous == 'full'}")
    _prepare(writer, "BEGIN IMMEDIATE", pragmas)
    event.listen(writer, "connect", lambda *_: file.reconnected())
    reader = create_engine("sqlite://", pool_size=READERS, **options)
    _prepare(reader, "BEGIN", ["query_only = ON"])
    return SqliteDatabase(writer, reader, _Line(busy_seconds), file)


def _connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    return sqlite3.connect(
        # Not to be made: a file that was deleted must not come back empty.
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        # The driver leaves transactions to us: its own would take the write lock too late.
        isolation_level=None,
        timeout=busy_seconds,
        # The pool gives a connection to one thread at a time.
        check_same_thread=False,
    )


def _prepare(engine: Engine, begin: str, pragmas: Sequence[str]) -> None:
    def prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for pragma in ("foreign_keys = ON", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", lambda c: c.exec_driver_sql(begin))


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
