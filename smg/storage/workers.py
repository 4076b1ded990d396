"""Workers in SQL: the URLs of those that were added while a gateway ran."""

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from smg.storage.database import Database
from smg.storage.tables import database_now, workers


class SqlWorkers:
    """A WorkerStore on a migrated database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, url: str) -> bool:
        """Remember a worker; `False`: it was remembered already."""

        def work(connection: Connection) -> bool:
            try:
                with connection.begin_nested():
                    connection.execute(insert(workers).values(url=url, added_at=database_now()))
            except IntegrityError:  # Another gateway may have been told too.
                return False
            return True

        return await self._database.write(work)

    async def remove(self, url: str) -> None:
        """Forget a worker, if it was remembered."""
        forget = delete(workers).where(workers.c.url == url)
        await self._database.write(lambda c: c.execute(forget))

    async def urls(self) -> list[str]:
        """All that are remembered, in the order of the alphabet."""
        query = select(workers.c.url).order_by(workers.c.url)
        return await self._database.read(lambda c: list(c.scalars(query)))
