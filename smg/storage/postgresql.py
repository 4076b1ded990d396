"""PostgreSQL: the same units of work, under greenlets instead of threads, on asyncpg.

Knows no table.
"""

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from smg.errors import ConfigError
from smg.storage.work import BUSY_SECONDS, T, Work, database_errors, uninterrupted

CONNECTIONS = 10


class PostgresDatabase:
    """A PostgreSQL server."""

    is_sqlite = False
    damage: str | None = None
    """Looking after its files is its own business."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # Several selects of one unit of work must not see a change in between.
        self._reader = engine.execution_options(isolation_level="REPEATABLE READ")

    async def write(self, work: Work[T]) -> T:
        """Run a unit of work that changes something."""
        return await uninterrupted(self._run(self._engine, work))

    async def read(self, work: Work[T]) -> T:
        """Run a unit of work that sees one state of the database."""
        return await uninterrupted(self._run(self._reader, work))

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def _run(self, engine: AsyncEngine, work: Work[T]) -> T:
        with database_errors():
            async with engine.begin() as connection:
                return await connection.run_sync(work)


def postgresql(url: URL) -> PostgresDatabase:
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
            pool_pre_ping=True,  # A restarted server costs a ping, not a request.
            hide_parameters=True,
            connect_args={"timeout": BUSY_SECONDS, "command_timeout": 60.0},
        )
    except ImportError as error:
        raise ConfigError("PostgreSQL needs a driver: pip install 'smg[postgres]'") from error
    return PostgresDatabase(engine)
