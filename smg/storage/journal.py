"""The journal in SQL: who works on a response, its steps, and the events that were sent.

Every write of a run locks the response's row and compares the lease, in the same transaction.
"""

import json
from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select, update

from smg.errors import Conflict
from smg.storage.database import Database
from smg.storage.records import UNFINISHED, EventBatch, Lease, RepeatKey, Step, UnfinishedResponse
from smg.storage.rows import (
    RowOf,
    check_lease,
    is_free,
    is_visible,
    to_text,
    visible_response,
)
from smg.storage.tables import database_now, events, idempotency_keys, responses, steps


class SqlJournal:
    """A JournalStore on a migrated database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, response_id: str, owner: str, holder: str, ttl: float) -> Lease | None:
        """Take an unfinished response that nobody holds; `None`: there is none to take."""
        take = (
            update(responses)
            .where(
                is_visible(response_id, owner),
                responses.c.status.in_(UNFINISHED),
                is_free(responses.c.lease_until),
            )
            .values(
                lease_holder=holder,
                lease_until=database_now() + ttl,
                attempt=responses.c.attempt + 1,
            )
            .returning(responses.c.attempt)
        )

        def work(connection: Connection) -> Lease | None:
            attempt = connection.scalar(take)
            if attempt is None:
                return None
            return Lease(response_id=response_id, owner=owner, holder=holder, attempt=attempt)

        return await self._database.write(work)

    async def renew(self, lease: Lease, ttl: float) -> bool:
        """Hold on for `ttl` more seconds; whether somebody asked to cancel."""
        longer = (
            update(responses)
            .where(responses.c.id == lease.response_id)
            .values(lease_until=database_now() + ttl)
        )

        def work(connection: Connection) -> bool:
            row = check_lease(connection, lease)
            connection.execute(longer)
            return bool(row.cancel_requested)

        return await self._database.write(work)

    async def release(self, lease: Lease) -> None:
        """Give an unfinished response back, if it is still ours."""
        give = (
            update(responses)
            .where(
                is_visible(lease.response_id, lease.owner),
                responses.c.lease_holder == lease.holder,
                responses.c.attempt == lease.attempt,
            )
            # Who gives it back has not died over it.
            .values(lease_holder=None, lease_until=None, attempt=responses.c.attempt - 1)
        )
        await self._database.write(lambda c: c.execute(give))

    async def unfinished(self, limit: int = 100) -> list[UnfinishedResponse]:
        """Unfinished responses that nobody holds, oldest first; of all owners."""
        query = (
            select(responses)
            .where(
                responses.c.status.in_(UNFINISHED),
                responses.c.deleted.is_(False),
                is_free(responses.c.lease_until),
            )
            .order_by(responses.c.created_at, responses.c.id)
            .limit(limit)
        )

        def work(connection: Connection) -> list[UnfinishedResponse]:
            return [
                UnfinishedResponse(
                    id=row.id,
                    owner=row.owner,
                    status=row.status,
                    background=row.background,
                    attempt=row.attempt,
                    cancel_requested=row.cancel_requested,
                )
                for row in connection.execute(query)
            ]

        return await self._database.read(work)

    async def append_events(self, batches: Sequence[tuple[Lease, EventBatch]]) -> list[bool]:
        """Log frames of several streams, in one transaction, before they are sent."""

        def work(connection: Connection) -> list[bool]:
            held = leases_held(connection, [lease for lease, _ in batches])
            ours = [
                (lease.response_id, batch)
                for (lease, batch), is_ours in zip(batches, held, strict=True)
                if is_ours
            ]
            insert_events(connection, ours)
            return held

        return await self._database.write(work)

    async def events(
        self, response_id: str, owner: str, after: int = -1, limit: int = 1000
    ) -> list[tuple[int, bytes]]:
        """Logged frames with a sequence number above `after`."""
        query = (
            select(events.c.sequence, events.c.frame)
            .where(events.c.response_id == response_id, events.c.sequence > after)
            .order_by(events.c.sequence)
            .limit(limit)
        )

        def work(connection: Connection) -> list[tuple[int, bytes]]:
            visible_response(connection, response_id, owner)
            return [(row.sequence, row.frame) for row in connection.execute(query)]

        return await self._database.read(work)

    async def append_step(self, lease: Lease, step: Step) -> None:
        """Write down a step before its effect."""

        def work(connection: Connection) -> None:
            check_lease(connection, lease)
            insert_step(connection, lease.response_id, step)

        await self._database.write(work)

    async def steps(self, response_id: str, owner: str) -> list[Step]:
        """All steps, first to last."""
        query = select(steps).where(steps.c.response_id == response_id).order_by(steps.c.number)

        def work(connection: Connection) -> list[Step]:
            visible_response(connection, response_id, owner)
            return [
                Step(number=row.number, kind=row.kind, state=json.loads(row.state))
                for row in connection.execute(query)
            ]

        return await self._database.read(work)

    async def remember_key(
        self, owner: str, key: str, request_hash: str, response_id: str
    ) -> str | None:
        """Bind an idempotency key to a request; the earlier response's id, if it was bound."""
        asked = RepeatKey(key, request_hash)
        return await self._database.write(lambda c: bind_key(c, owner, asked, response_id))

    async def forget_key(self, owner: str, key: str, response_id: str) -> None:
        """Free a key whose request came to nothing, if it is bound to this response."""
        free = delete(idempotency_keys).where(
            idempotency_keys.c.owner == owner,
            idempotency_keys.c.key == key,
            idempotency_keys.c.response_id == response_id,
        )
        await self._database.write(lambda c: c.execute(free))


def bind_key(connection: Connection, owner: str, key: RepeatKey, response_id: str) -> str | None:
    """Bind an idempotency key to a request; the earlier response's id, if it was bound."""
    bound_key = select(idempotency_keys).where(
        idempotency_keys.c.owner == owner, idempotency_keys.c.key == key.key
    )
    bound = connection.execute(bound_key).one_or_none()
    if bound is None:
        row = insert(idempotency_keys).values(
            owner=owner,
            key=key.key,
            request_hash=key.asked,
            response_id=response_id,
            created_at=database_now(),
        )
        connection.execute(row)
        return None
    if bound.request_hash != key.asked:
        raise Conflict(
            "This Idempotency-Key was used for a different request",
            code="idempotency_key_reused",
        )
    return str(bound.response_id)


def leases_held(connection: Connection, leases: Sequence[Lease]) -> list[bool]:
    """Which of these leases are still in force; their rows are locked."""
    query = (
        select(responses.c.id, responses.c.lease_holder, responses.c.attempt, responses.c.status)
        .where(responses.c.id.in_([lease.response_id for lease in leases]))
        .order_by(responses.c.id)
        .with_for_update()
    )
    rows = {row.id: row for row in connection.execute(query)}
    return [_is_held(lease, rows.get(lease.response_id)) for lease in leases]


def _is_held(lease: Lease, row: RowOf | None) -> bool:
    return (
        row is not None
        and row.status in UNFINISHED
        and (row.lease_holder, row.attempt) == (lease.holder, lease.attempt)
    )


def insert_step(connection: Connection, response_id: str, step: Step) -> None:
    """Write down a step; the caller has made sure that the response is his."""
    row = insert(steps).values(
        response_id=response_id,
        number=step.number,
        kind=step.kind,
        state=to_text(step.state),
        at=database_now(),
    )
    connection.execute(row)


def insert_events(connection: Connection, batches: Sequence[tuple[str, EventBatch]]) -> None:
    """Log frames of responses, in one statement; the caller has made sure that they are his."""
    rows = [
        {"response_id": response_id, "sequence": sequence, "frame": frame}
        for response_id, batch in batches
        for sequence, frame in enumerate(batch.frames, batch.first_sequence)
    ]
    if rows:
        connection.execute(insert(events), rows)
