"""The items of conversations in SQL: an ordered list, appended to by one at a time.

Functions inside somebody else's transaction.
"""

from collections import Counter
from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select, update

from smg.errors import Conflict, InvalidRequest, NotFound
from smg.item_json import to_json
from smg.items import Item
from smg.storage.records import ItemPage, Page, ResponseRecord
from smg.storage.rows import IDS_AT_ONCE, RowOf, is_free, to_item, to_text
from smg.storage.tables import conversations, items


def is_conversation(conversation_id: str | None, owner: str) -> ColumnElement[bool]:
    """The one condition under which a conversation is there for a client."""
    return (conversations.c.id == conversation_id) & (conversations.c.owner == owner)


def locked(conversation_id: str) -> Conflict:
    """What a turn is told that wants a conversation which another one holds."""
    return Conflict(
        f"Another turn is being taken in conversation {conversation_id!r}",
        param="conversation",
        code="conversation_locked",
    )


def conversation_row(connection: Connection, conversation_id: str, owner: str) -> RowOf:
    """The conversation's row.

    Raises:
        NotFound: there is none, or it is somebody else's.
    """
    query = select(conversations).where(is_conversation(conversation_id, owner))
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"Conversation with id {conversation_id!r} not found")
    return row


def append_turn(connection: Connection, record: ResponseRecord) -> None:
    """Put a response's items at the end of its conversation, if that still exists.

    Raises:
        Conflict: another turn has reserved it.
    """
    query = (
        select(conversations, is_free(conversations.c.lock_until).label("free"))
        .where(is_conversation(record.conversation_id, record.owner))
        .with_for_update()
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return
    if not row.free and row.lock_holder != record.id:
        raise locked(row.id)
    mine = (
        select(items.c.key, items.c.item_id, items.c.payload)
        .where(items.c.response_id == record.id)
        .order_by(items.c.direction, items.c.position)
    )
    found = connection.execute(mine).all()
    seen = _present(connection, row.id, [each.item_id for each in found])
    new: dict[tuple[str, str], int] = {}
    for each in found:
        if (each.item_id, each.payload) not in seen:  # Not a reference to what is there.
            new.setdefault((each.item_id, each.payload), each.key)
    _move_in(connection, row, list(new.values()))


def add_items(
    connection: Connection, conversation_id: str, owner: str, new: Sequence[Item]
) -> None:
    """Append items that live in the conversation only.

    Raises:
        InvalidRequest: an id is in the conversation already, or twice among the items.
    """
    counts = Counter(item.id for item in new)
    # Counting up first makes other appends wait until this one is committed.
    start = reserve(connection, conversation_id, owner, len(new))
    present = {item_id for item_id, _ in _present(connection, conversation_id, counts)}
    doubled = sorted(present | {item_id for item_id, count in counts.items() if count > 1})
    if doubled:
        raise InvalidRequest(f"Item ids must be new: {', '.join(doubled)}", param="items")
    rows = [
        {
            "owner": owner,
            "item_id": item.id,
            "conversation_id": conversation_id,
            "conversation_position": position,
            "payload": to_text(to_json(item)),
        }
        for position, item in enumerate(new, start)
    ]
    if rows:
        connection.execute(insert(items), rows)


def reserve(connection: Connection, conversation_id: str, owner: str, count: int) -> int:
    """Take the next `count` positions; the first of them."""
    take = (
        update(conversations)
        .where(is_conversation(conversation_id, owner))
        .values(next_position=conversations.c.next_position + count)
        .returning(conversations.c.next_position)
    )
    end = connection.scalar(take)
    if end is None:
        raise NotFound(f"Conversation with id {conversation_id!r} not found")
    return int(end) - count


def _move_in(connection: Connection, row: RowOf, keys: Sequence[int]) -> None:
    if not keys:
        return
    start = reserve(connection, row.id, row.owner, len(keys))
    home = (
        update(items)
        .where(items.c.key == bindparam("row"))
        .values(conversation_id=row.id, conversation_position=bindparam("place"))
    )
    places = [{"row": key, "place": place} for place, key in enumerate(keys, start)]
    connection.execute(home, places)


def _present(
    connection: Connection, conversation_id: str, ids: Collection[str]
) -> set[tuple[str, str]]:
    """Id and payload of the items with these ids that the conversation has."""
    wanted, found = list(ids), set()
    for first in range(0, len(wanted), IDS_AT_ONCE):
        query = select(items.c.item_id, items.c.payload).where(
            items.c.conversation_id == conversation_id,
            items.c.item_id.in_(wanted[first : first + IDS_AT_ONCE]),
        )
        found |= {(row.item_id, row.payload) for row in connection.execute(query)}
    return found


def take_out(connection: Connection, conversation_id: str, item_id: str | None = None) -> None:
    """Take one item or all out of a conversation; rows without another home go."""
    theirs = items.c.conversation_id == conversation_id
    if item_id is not None:
        theirs &= items.c.item_id == item_id
    connection.execute(delete(items).where(theirs, items.c.response_id.is_(None)))
    connection.execute(
        update(items).where(theirs).values(conversation_id=None, conversation_position=None)
    )


def all_items(connection: Connection, conversation_id: str, owner: str) -> tuple[Item, ...]:
    conversation_row(connection, conversation_id, owner)
    query = (
        select(items.c.payload)
        .where(items.c.conversation_id == conversation_id)
        .order_by(items.c.conversation_position)
    )
    return tuple(map(to_item, connection.scalars(query)))


def page_of_items(connection: Connection, conversation_id: str, owner: str, page: Page) -> ItemPage:
    """A page of the conversation's items."""
    conversation_row(connection, conversation_id, owner)
    place = items.c.conversation_position
    query = select(items.c.payload).where(items.c.conversation_id == conversation_id)
    if page.after is not None:
        seen = _position(connection, conversation_id, page.after, page)
        query = query.where(place > seen if page.order == "asc" else place < seen)
    query = query.order_by(place if page.order == "asc" else place.desc())
    payloads = (connection.scalars(query.limit(page.limit + 1))).all()
    return ItemPage(
        tuple(map(to_item, payloads[: page.limit])), has_more=len(payloads) > page.limit
    )


def _position(connection: Connection, conversation_id: str, item_id: str, page: Page) -> int:
    # Clients may use an id for two different items; the further one, or a reader would circle.
    furthest = func.max if page.order == "asc" else func.min
    query = select(furthest(items.c.conversation_position)).where(
        items.c.conversation_id == conversation_id, items.c.item_id == item_id
    )
    position = connection.scalar(query)
    if position is None:
        raise InvalidRequest(f"No item {item_id!r} in this conversation", param="after")
    return int(position)


def one_item(connection: Connection, conversation_id: str, owner: str, item_id: str) -> Item:
    """The item of this id; of several, the last."""
    conversation_row(connection, conversation_id, owner)
    query = (
        select(items.c.payload)
        .where(items.c.conversation_id == conversation_id, items.c.item_id == item_id)
        .order_by(items.c.conversation_position.desc())
        .limit(1)
    )
    payload = connection.scalar(query)
    if payload is None:
        raise NotFound(f"Item with id {item_id!r} not found in conversation {conversation_id!r}")
    return to_item(payload)


def unlock_conversation(connection: Connection, conversation_id: str, holder: str) -> None:
    """Give the conversation back, if this turn has it: in the transaction that ends the turn.

    Who hears of the end may begin the next turn at once.
    """
    connection.execute(
        update(conversations)
        .where(conversations.c.id == conversation_id, conversations.c.lock_holder == holder)
        .values(lock_holder=None, lock_until=None)
    )
