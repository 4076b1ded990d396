"""How responses go away: buried first, removed when nothing that lives continues them.

Functions inside somebody else's transaction.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, delete, exists, literal, select, update

from smg.storage.records import UNFINISHED
from smg.storage.rows import IDS_AT_ONCE, drop_response_items
from smg.storage.tables import events, idempotency_keys, responses, steps


def bury(connection: Connection, ids: Collection[str]) -> None:
    """Make responses unknown: what is left is their place in a chain and their items."""
    connection.execute(
        update(responses)
        .where(responses.c.id.in_(ids))
        .values(deleted=True, body="{}", lease_holder=None, lease_until=None)
    )
    for table in (events, steps):
        connection.execute(delete(table).where(table.c.response_id.in_(ids)))


def remove_unneeded(connection: Connection, ids: Collection[str]) -> int:
    """Remove those of these buried responses that nothing continues, and buried ones above.

    Returns how many rows are gone.
    """
    dead = _unneeded(connection, ids)
    for start in range(0, len(dead), IDS_AT_ONCE):
        batch = dead[start : start + IDS_AT_ONCE]
        drop_response_items(connection, batch)
        connection.execute(delete(responses).where(responses.c.id.in_(batch)))
    return len(dead)


def _unneeded(connection: Connection, ids: Collection[str]) -> Sequence[str]:
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
    return (connection.scalars(select(dead.c.id).order_by(dead.c.height))).all()


def purge_expired(connection: Connection, before: int, limit: int) -> int:
    """Bury a batch of finished responses made before this time, and remove a batch of buried."""
    old = responses.c.created_at < before
    aged = (
        select(responses.c.id)
        .where(old, responses.c.deleted.is_(False), responses.c.status.not_in(UNFINISHED))
        .limit(limit)
    )
    expired = (connection.scalars(aged)).all()
    bury(connection, expired)
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
    removed = remove_unneeded(connection, (connection.scalars(leaves)).all())
    connection.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < before))
    return len(expired) + removed
