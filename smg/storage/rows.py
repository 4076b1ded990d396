"""Between values and rows: JSON text, records, items and where they live.

Works on a connection that somebody else opened; begins and ends no transaction.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, or_, select, update

from smg.errors import LeaseLost, NotFound
from smg.item_json import from_json, to_json
from smg.items import Item
from smg.storage.records import Lease, ResponseRecord
from smg.storage.tables import database_now, items, responses

RowOf = Row[*tuple[Any, ...]]

# SQLite takes 32766 parameters in a statement, old builds 999.
IDS_AT_ONCE = 500


def to_text(value: Mapping[str, Any]) -> str:
    """JSON as it is stored: compact, and UTF-8 can hold it whatever a client sent."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if text.isascii() or _encodes(text):
        return text
    return json.dumps(value, separators=(",", ":"))


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # A lone surrogate, which JSON allows.
        return False
    return True


def to_item(payload: str) -> Item:
    """The item of a row."""
    return from_json(json.loads(payload))


def response_row(record: ResponseRecord) -> dict[str, Any]:
    """What the responses table holds of a record."""
    return {
        "id": record.id,
        "owner": record.owner,
        "model": record.model,
        "status": record.status,
        "created_at": record.created_at,
        "previous_response_id": record.previous_response_id,
        "conversation_id": record.conversation_id,
        "background": record.background,
        "body": to_text(record.body),
    }


def response_record(row: RowOf, found: Sequence[RowOf]) -> ResponseRecord:
    """The record of a response's row and its items' rows."""
    body = json.loads(row.body)
    if "status" in body:
        body["status"] = row.status
    return ResponseRecord(
        id=row.id,
        owner=row.owner,
        model=row.model,
        status=row.status,
        created_at=row.created_at,
        previous_response_id=row.previous_response_id,
        conversation_id=row.conversation_id,
        background=row.background,
        body=body,
        input=tuple(to_item(each.payload) for each in found if each.direction == "input"),
        output=tuple(to_item(each.payload) for each in found if each.direction == "output"),
    )


def is_visible(response_id: str, owner: str) -> ColumnElement[bool]:
    """The one condition under which a response is there for a client."""
    return (
        (responses.c.id == response_id)
        & (responses.c.owner == owner)
        & responses.c.deleted.is_(False)
    )


def is_free(until: ColumnElement[float | None]) -> ColumnElement[bool]:
    """Whether a lease or lock was never given, or has run out."""
    return or_(until.is_(None), until <= database_now())


def visible_response(connection: Connection, response_id: str, owner: str) -> RowOf:
    """The response's row.

    Raises:
        NotFound: there is none, it was deleted, or it is somebody else's.
    """
    query = select(responses).where(is_visible(response_id, owner))
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"Response with id {response_id!r} not found")
    return row


def check_lease(connection: Connection, lease: Lease) -> RowOf:
    """Lock the row that the lease is for.

    Raises:
        LeaseLost: it is the lease of somebody else now, or nobody's.
    """
    query = (
        select(responses)
        .where(
            is_visible(lease.response_id, lease.owner),
            responses.c.lease_holder == lease.holder,
            responses.c.attempt == lease.attempt,
        )
        .with_for_update()
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise LeaseLost(f"{lease.holder} no longer holds {lease.response_id}")
    return row


def insert_response_items(
    connection: Connection, record: ResponseRecord, direction: str, values: Sequence[Item]
) -> None:
    """Store the input or the output of a response."""
    rows = [
        {
            "owner": record.owner,
            "item_id": item.id,
            "response_id": record.id,
            "direction": direction,
            "position": position,
            "payload": to_text(to_json(item)),
        }
        for position, item in enumerate(values)
    ]
    if rows:
        connection.execute(insert(items), rows)


def drop_response_items(connection: Connection, ids: Collection[str]) -> None:
    """Take the items of these responses away, except where a conversation has them."""
    theirs = items.c.response_id.in_(ids)
    connection.execute(items.delete().where(theirs, items.c.conversation_id.is_(None)))
    connection.execute(
        update(items).where(theirs).values(response_id=None, direction=None, position=None)
    )
