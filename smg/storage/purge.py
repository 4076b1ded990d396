"""How responses go away: buried first, removed when nothing that lives continues them.

Functions inside somebody else's transaction.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import delete, exists, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from smg.storage.records import UNFINISHED
from smg.storage.rows import IDS_AT_ONCE, drop_response_items
from smg.storage.tables import events, idempotency_keys, responses, steps


async def bury(connection: AsyncConnection, ids: Collection[str]) -> None:
    """Make responses unknown: what is left is their place in a chain and their items."""
    await connection.execute(
        update(responses)
        .where(responses.c.id.in_(ids))
        .values(deleted=True, body="{}", lease_holder=None, lease_until=None)
    )
    for table in (events, steps):
        await connection.execute(delete(table).where(table.c.response_id.in_(ids)))


async def remove_unneeded(connection: AsyncConnection, ids: Collection[str]) -> int:
    """Remove those of these buried responses that nothing continues, and buried ones above.

    Returns how many rows are gone.
    """
    dead = await _unneeded(connection, ids)
    for start in range(0, len(dead), IDS_AT_ONCE):
        batch = dead[start : start + IDS_AT_ONCE]
        await drop_response_items(connection, batch)
        await connection.execute(delete(responses).where(responses.c.id.in_(batch)))
    return len(dead)


async def _unneeded(connection: AsyncConnection, ids: Collection[str]) -> Sequence[str]:
    """What can be removed, each before the response that it continues."""
    child, parent = responses.alias("child"), responses.alias("parent")
    dead = (
        select(responses.c.id, responses.c.previous_response_id, literal(0).label("height"))
        .where(
            responses.c.id.in_(ids),
            responses.c.deleted.is_(True),
            ~exists().where(child.c.previous_response_id == responses.c.id),
        )
        .cte("dead", recursive=True)
    )
    only_child = ~exists().where(
        child.c.previous_response_id == parent.c.id, child.c.id != dead.c.id
    )
    dead = dead.union_all(
        select(parent.c.id, parent.c.previous_response_id, dead.c.height + 1)
        .join_from(parent, dead, parent.c.id == dead.c.previous_response_id)
        .where(parent.c.deleted.is_(True), only_child)
    )
    return (await connection.scalars(select(dead.c.id).order_by(dead.c.height))).all()


async def purge_expired(connection: AsyncConnection, before: int, limit: int) -> int:
    """Bury a batch of finished responses made before this time, and remove a batch of buried."""
    old = responses.c.created_at < before
    aged = (
        select(responses.c.id)
        .where(old, responses.c.deleted.is_(False), responses.c.status.not_in(UNFINISHED))
        .limit(limit)
    )
    expired = (await connection.scalars(aged)).all()
    await bury(connection, expired)
    child = responses.alias("child")
    leaves = (
        select(responses.c.id)
        .where(
            old,
            responses.c.deleted.is_(True),
            ~exists().where(child.c.previous_response_id == responses.c.id),
        )
        .limit(limit)
    )
    removed = await remove_unneeded(connection, (await connection.scalars(leaves)).all())
    await connection.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < before))
    return len(expired) + removed
