"""How what is old goes away. Responses are buried first, removed when nothing alive continues them.

Functions inside somebody else's transaction.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, Table, delete, exists, literal, select, tuple_, update
from sqlalchemy.sql import ColumnElement

from smg.storage.records import UNFINISHED
from smg.storage.rows import IDS_AT_ONCE, drop_response_items
from smg.storage.tables import approvals, events, idempotency_keys, items, responses, steps


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
    """Bury a batch of finished responses made before this time, and remove a batch of buried.

    A batch of idempotency keys and answered approvals goes too. Returns how many rows changed.
    """
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
    return len(expired) + removed + _forget_old(connection, before, limit)


def _forget_old(connection: Connection, before: int, limit: int) -> int:
    # While the request can still be seen its answer stays: without it, a second yes would count.
    is_asked = exists().where(
        items.c.item_id == approvals.c.request_id, items.c.owner == approvals.c.owner
    )
    keys = idempotency_keys.c
    return _remove(connection, idempotency_keys, keys.created_at < before, limit) + _remove(
        connection, approvals, (approvals.c.created_at < before) & ~is_asked, limit
    )


def _remove(connection: Connection, table: Table, which: ColumnElement[bool], limit: int) -> int:
    key = tuple(table.primary_key.columns)
    batch = select(*key).where(which).limit(limit)
    gone = delete(table).where(tuple_(*key).in_(batch)).returning(*key)
    return len(connection.execute(gone).all())


def give_back(connection: Connection, pages: int) -> int:
    """Return up to so many unused pages of a SQLite file to the disk; how many are left."""
    # Each row of the pragma's answer is a page: it is the fetching that frees them. The rows have
    # no columns, so that SQLAlchemy would take it for a statement without an answer.
    driver = connection.connection.cursor()
    try:
        driver.execute(f"PRAGMA incremental_vacuum({pages})")
        driver.fetchall()
    finally:
        driver.close()
    return int(connection.exec_driver_sql("PRAGMA freelist_count").scalar_one())
