"""PostgreSQL: the same units of work, under greenlets instead of threads, on asyncpg.

A server may be restarted, or another one may take its place. What was under way is then done again,
once it is known that nothing has come of it (docs/decisions/0015). Knows no table.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import URL, Connection, event, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from smg.errors import ConfigError, StorageError
from smg.storage.second_try import Attempt, Patience, is_lost, is_passing, sqlstate
from smg.storage.work import BUSY_SECONDS, T, Work, database_errors, uninterrupted

log = logging.getLogger(__name__)

CONNECTIONS = 10
AWAY_SECONDS = 10.0
"""How long a unit of work tries again. Shorter than a lease: a restart costs none."""

CLOSE_SECONDS = 5.0
READ_ONLY = "25006"
TIMELINE = "timeline"
"""Under this name a connection knows on which timeline its server was."""

Once = Callable[[Attempt], Awaitable[None]]  # One try, which says in the attempt how far it comes.


class PostgresDatabase:
    """A PostgreSQL server."""

    is_sqlite = False
    damage: str | None = None
    """Looking after its files is its own business."""

    def __init__(
        self, engine: AsyncEngine, away_s: float, chance: Callable[[], float] = random.random
    ) -> None:
        self._engine = engine
        # Several selects of one unit of work must not see a change in between.
        self._reader = engine.execution_options(isolation_level="REPEATABLE READ")
        self._away_s = away_s
        self._chance = chance

    async def write(self, work: Work[T]) -> T:
        """Run a unit of work that changes something."""
        return await uninterrupted(self._run(lambda attempt: self._write_once(work, attempt)))

    async def read(self, work: Work[T]) -> T:
        """Run a unit of work that sees one state of the database."""
        return await uninterrupted(self._run(lambda attempt: self._read_once(work, attempt)))

    async def close(self) -> None:
        """Close all connections; those to a server that does not answer are left to the system."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._engine.dispose()

    async def _write_once(self, work: Work[Any], attempt: Attempt) -> None:
        async with self._engine.connect() as connection:
            attempt.is_connected = True
            try:
                attempt.result = await connection.run_sync(work)
                await connection.run_sync(_look, attempt)
                attempt.is_being_committed = True
                await connection.commit()
            except DBAPIError as error:
                if sqlstate(error) == READ_ONLY:
                    await connection.invalidate()  # Its server is a copy of another one now.
                raise

    async def _read_once(self, work: Work[Any], attempt: Attempt) -> None:
        async with self._reader.connect() as connection:
            attempt.is_connected = True
            attempt.result = await connection.run_sync(work)

    async def _run(self, once: Once) -> Any:
        patience = Patience(self._away_s, self._chance)
        with database_errors():
            while not await self._is_done(once, attempt := Attempt(), patience):
                pass
            return attempt.result

    async def _is_done(self, once: Once, attempt: Attempt, patience: Patience) -> bool:
        """Try; whether it is there. If not, nothing has come of it, and it may be tried again."""
        try:
            await once(attempt)
        except (DBAPIError, OSError) as error:
            if attempt.may_have_changed_something and is_lost(error):
                if await self._has_committed(attempt, patience):
                    return True
            elif not is_passing(error, attempt):
                raise
            if not await patience.pause():
                raise
            return False
        return True

    async def _has_committed(self, attempt: Attempt, patience: Patience) -> bool:
        """What became of a transaction whose end was not heard.

        Raises:
            StorageError: nobody can say.
        """
        while True:
            told = await self._told(attempt)
            if told in ("committed", "aborted"):
                return told == "committed"
            if told == "unknown" or not await patience.pause():
                raise StorageError(
                    "The connection to the database broke while this was being stored: it may be "
                    "there or not"
                )

    async def _told(self, attempt: Attempt) -> str:
        """How the server calls the state of a transaction; `no answer` for now, or `unknown`."""
        asking = Attempt()
        try:
            async with self._engine.connect() as connection:
                asking.is_connected = True
                # Another server has gone on by itself; its numbers mean other transactions.
                if None is not attempt.timeline == connection.info.get(TIMELINE):
                    status = select(func.txid_status(attempt.transaction))
                    return await connection.scalar(status) or "unknown"
                return "unknown"
        except (DBAPIError, OSError) as error:
            return "no answer" if is_passing(error, asking) else "unknown"


def _look(connection: Connection, attempt: Attempt) -> None:
    attempt.timeline = connection.info.get(TIMELINE)
    attempt.transaction = connection.scalar(select(func.txid_current_if_assigned()))


def postgresql(url: URL, away_s: float) -> PostgresDatabase:
    """The database at a URL; nothing is connected yet.

    Raises:
        ConfigError: the driver is not installed.
    """
    if "sslmode" in url.query:  # libpq's word for what asyncpg calls ssl
        mode = url.query["sslmode"]
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    try:
        engine = create_async_engine(
            url,
            pool_size=CONNECTIONS,
            hide_parameters=True,
            connect_args={"timeout": BUSY_SECONDS, "command_timeout": 60.0},
        )
    except ImportError as error:
        raise ConfigError("PostgreSQL needs a driver: pip install 'smg[postgres]'") from error
    event.listen(engine.sync_engine, "connect", _ask_timeline)
    return PostgresDatabase(engine, away_s)


def _ask_timeline(connection: Any, entry: ConnectionPoolEntry) -> None:
    """Note the timeline; some servers do not tell it, as those that are copies of another."""
    cursor = connection.cursor()
    try:
        cursor.execute("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)")
        entry.info[TIMELINE] = cursor.fetchone()[0]
    except connection.dbapi.Error:
        log.debug("The server does not tell its timeline", exc_info=True)
    finally:
        cursor.close()
        with suppress(connection.dbapi.Error):  # It is broken: whoever uses it will notice.
            connection.rollback()
