"""Workers in SQL: those that were added while a gateway ran, and what is said of them."""

import json

from sqlalchemy import Connection, Update, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from smg.storage.database import Database
from smg.storage.records import WorkerRecord
from smg.storage.rows import RowOf, to_text
from smg.storage.tables import database_now, workers


class SqlWorkers:
    """A WorkerStore on a migrated database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, worker: WorkerRecord) -> None:
        """Remember a worker; if it was remembered already, with what is said of it now."""
        remember = insert(workers).values(
            url=worker.url,
            added_at=database_now(),
            description=to_text(worker.description),
            sealed_key=worker.sealed_key,
        )

        def work(connection: Connection) -> None:
            try:
                with connection.begin_nested():
                    connection.execute(remember)
            except IntegrityError:  # Another gateway may have been told too.
                connection.execute(_changed(worker).values(sealed_key=worker.sealed_key))

        await self._database.write(work)

    async def change(self, worker: WorkerRecord) -> None:
        """Remember what is said of a worker now, if it is at all; its key stays if none is said."""
        change = _changed(worker)
        if worker.sealed_key is not None:
            change = change.values(sealed_key=worker.sealed_key)
        await self._database.write(lambda c: c.execute(change))

    async def remove(self, url: str) -> None:
        """Forget a worker, if it was remembered."""
        forget = delete(workers).where(workers.c.url == url)
        await self._database.write(lambda c: c.execute(forget))

    async def all(self) -> list[WorkerRecord]:
        """All that are remembered, in the order of their URLs."""
        query = select(workers).order_by(workers.c.url)
        rows = await self._database.read(lambda c: c.execute(query).all())
        return [_record(row) for row in rows]


def _changed(worker: WorkerRecord) -> Update:
    described = to_text(worker.description)
    return update(workers).where(workers.c.url == worker.url).values(description=described)


def _record(row: RowOf) -> WorkerRecord:
    return WorkerRecord(
        url=row.url, description=json.loads(row.description), sealed_key=row.sealed_key
    )
