"""Pins in SQL: one row for each tool server, replaced when an operator agrees to something else."""

import json
from collections.abc import Mapping

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from smg.storage.database import Database
from smg.storage.records import PinnedTools
from smg.storage.rows import to_text
from smg.storage.tables import pinned_tools


class SqlPins:
    """A PinStore on a migrated database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pinned(self, label: str, identity: str) -> PinnedTools | None:
        """What was agreed to last; `None`: nothing yet."""
        table = pinned_tools.c
        query = select(table.digest, table.tools, table.approved_at).where(
            table.label == label, table.identity == identity
        )
        row = await self._database.read(lambda c: c.execute(query).one_or_none())
        return None if row is None else _pinned(row)

    async def pin(
        self, label: str, identity: str, *, digest: str, tools: Mapping[str, str], approved_at: int
    ) -> None:
        """Agree to this instead of what was agreed to before."""
        server = {"label": label, "identity": identity}
        fields = {"digest": digest, "tools": to_text(tools), "approved_at": approved_at}
        renew = update(pinned_tools).filter_by(**server).values(**fields)

        def work(connection: Connection) -> None:
            if connection.execute(renew).rowcount:
                return
            try:
                with connection.begin_nested():
                    connection.execute(insert(pinned_tools).values(**server, **fields))
            except IntegrityError:  # Another gateway was first, since we looked.
                connection.execute(renew)

        await self._database.write(work)


def _pinned(row: Row[str, str, int]) -> PinnedTools:
    digest, tools, approved_at = row
    return PinnedTools(digest=digest, tools=json.loads(tools), approved_at=approved_at)
