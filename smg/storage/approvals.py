"""Approvals in SQL: which calls wait for a word, and that each word counts once."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, exists, insert, select
from sqlalchemy.exc import IntegrityError

from smg.errors import Conflict, NotFound
from smg.items import McpApprovalRequest
from smg.storage.database import Database
from smg.storage.records import PendingApproval
from smg.storage.rows import to_item
from smg.storage.tables import approvals, database_now, items, responses

# The prefix of such ids, and the first text behind all that begin with it: a range of the index.
_FIRST, _AFTER = "mcpr_", "mcpr`"


class SqlApprovals:
    """An ApprovalStore on a migrated database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def answer(
        self, owner: str, response_id: str, *, approved: Sequence[str], denied: Sequence[str]
    ) -> None:
        """Note what this response answers: a call is allowed by the first answer, or never."""

        def work(connection: Connection) -> None:
            for request_id in (*approved, *denied):
                row = {
                    "owner": owner,
                    "request_id": request_id,
                    "response_id": response_id,
                    "created_at": database_now(),
                }
                try:
                    with connection.begin_nested():
                        connection.execute(insert(approvals).values(**row))
                except IntegrityError as error:
                    if request_id in approved:
                        raise Conflict(
                            f"The approval request '{request_id}' has been answered already.",
                            code="approval_already_answered",
                        ) from error

        await self._database.write(work)

    async def take_back(self, owner: str, response_id: str) -> None:
        """Forget the answers of a response that came to nothing."""
        forget = delete(approvals).where(
            approvals.c.owner == owner, approvals.c.response_id == response_id
        )
        await self._database.write(lambda c: c.execute(forget))

    async def pending(self, owner: str, limit: int = 100) -> list[PendingApproval]:
        """Requests of stored responses that nobody has answered, oldest first."""
        answered = exists().where(
            approvals.c.owner == items.c.owner, approvals.c.request_id == items.c.item_id
        )
        query = (
            select(items.c.payload, responses.c.id, responses.c.created_at)
            .join(responses, responses.c.id == items.c.response_id)
            .where(
                items.c.item_id >= _FIRST,
                items.c.item_id < _AFTER,
                items.c.owner == owner,
                items.c.direction == "output",
                responses.c.deleted.is_(False),
                ~answered,
            )
            .order_by(items.c.key)
            .limit(limit)
        )

        def work(connection: Connection) -> list[PendingApproval]:
            found = []
            for row in connection.execute(query):
                item = to_item(row.payload)
                if isinstance(item, McpApprovalRequest):
                    found.append(PendingApproval(item, row.id, row.created_at))
            return found

        return await self._database.read(work)

    async def one(self, owner: str, request_id: str) -> PendingApproval:
        """One request that nobody has answered."""
        for pending in await self.pending(owner, limit=10_000):
            if pending.request.id == request_id:
                return pending
        raise NotFound(f"No open approval request with id '{request_id}'.")
