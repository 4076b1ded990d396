"""Responses in SQL: saved whole, read by their owner, continued along their chain.

One function is one use case inside a transaction; the class opens the transactions.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    Connection,
    ScalarSelect,
    Select,
    exists,
    insert,
    literal,
    select,
    union_all,
    update,
)

from smg.errors import Conflict, InvalidRequest, LeaseLost, PreviousResponseNotFound
from smg.items import Item
from smg.storage import purge
from smg.storage.conversation_items import append_turn, unlock_conversation
from smg.storage.database import Database
from smg.storage.journal import bind_key, insert_events, insert_step
from smg.storage.records import (
    APPENDED,
    UNFINISHED,
    EventBatch,
    ItemPage,
    Lease,
    Page,
    Repeated,
    RepeatKey,
    ResponseRecord,
    Step,
)
from smg.storage.rows import (
    IDS_AT_ONCE,
    RowOf,
    check_lease,
    insert_response_items,
    is_visible,
    response_record,
    response_row,
    to_item,
    visible_response,
)
from smg.storage.tables import conversations, database_now, items, responses

NO_LEASE: dict[str, Any] = {"lease_holder": None, "lease_until": None}


class SqlResponses:
    """A ResponseStore on a migrated database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, record: ResponseRecord) -> None:
        """Store an unfinished response with its input, for anybody to claim."""
        await self._database.write(lambda c: _insert(c, record, {}))

    async def begin_claimed(
        self,
        record: ResponseRecord,
        holder: str,
        ttl: float,
        step: Step | None = None,
        key: RepeatKey | None = None,
    ) -> Lease:
        """Store an unfinished response that this holder works on from the start."""
        lease = Lease(response_id=record.id, owner=record.owner, holder=holder, attempt=1)
        held = {"lease_holder": holder, "lease_until": database_now() + ttl, "attempt": 1}

        def work(connection: Connection) -> None:
            _insert(connection, record, held)
            if key is not None:
                earlier = bind_key(connection, record.owner, key, record.id)
                if earlier is not None:
                    raise Repeated(earlier)
            if step is not None:
                insert_step(connection, record.id, step)

        await self._database.write(work)
        return lease

    async def save(
        self,
        record: ResponseRecord,
        *,
        lease: Lease | None = None,
        events: EventBatch | None = None,
        append_to_conversation: bool = True,
    ) -> None:
        """Store a response as it is now: row, items, last events, conversation, or nothing."""

        def work(connection: Connection) -> None:
            _save(connection, record, lease)
            if events is not None:
                insert_events(connection, [(record.id, events)])
            if append_to_conversation and record.status in APPENDED:
                append_turn(connection, record)
            if record.conversation_id is not None and record.status not in UNFINISHED:
                unlock_conversation(connection, record.conversation_id, record.id)

        await self._database.write(work)

    async def get(self, response_id: str, owner: str) -> ResponseRecord:
        """The response with its own input and output."""
        return await self._database.read(lambda c: _get(c, response_id, owner))

    async def history(self, response_id: str, owner: str) -> tuple[Item, ...]:
        """Everything said up to and including this response, oldest first."""
        return await self._database.read(lambda c: _history(c, response_id, owner))

    async def input_items(self, response_id: str, owner: str, page: Page) -> ItemPage:
        """What the response was made from: all that was said before, then its own input."""
        return await self._database.read(lambda c: _input_items(c, response_id, owner, page))

    async def find_items(self, ids: Collection[str], owner: str) -> dict[str, Item]:
        """The items of these ids that the owner has stored; of several, the newest."""
        return await self._database.read(lambda c: _find_items(c, list(ids), owner))

    async def delete(self, response_id: str, owner: str) -> None:
        """Make the response unknown; responses that continue it, and its conversation, stay."""

        def work(connection: Connection) -> None:
            row = visible_response(connection, response_id, owner)
            purge.bury(connection, [row.id])
            if row.status not in UNFINISHED:
                purge.remove_unneeded(connection, [row.id])

        await self._database.write(work)

    async def set_status(
        self, response_id: str, owner: str, expected: Collection[str], new: str
    ) -> bool:
        """Change the status if it is one of the expected: of several callers, one wins."""
        change = (
            update(responses)
            .where(is_visible(response_id, owner), responses.c.status.in_(expected))
            .values(status=new, **({} if new in UNFINISHED else NO_LEASE))
            .returning(responses.c.id)
        )

        def work(connection: Connection) -> bool:
            return connection.execute(change).one_or_none() is not None

        return await self._database.write(work)

    async def request_cancel(self, response_id: str, owner: str) -> None:
        """Ask whoever works on an unfinished response to stop; `renew` tells them."""
        change = (
            update(responses)
            .where(is_visible(response_id, owner), responses.c.status.in_(UNFINISHED))
            .values(cancel_requested=True)
        )

        def work(connection: Connection) -> None:
            visible_response(connection, response_id, owner)
            connection.execute(change)

        await self._database.write(work)

    async def purge_expired(self, before: int, limit: int = 500) -> int:
        """Forget finished responses made before this time; of all owners, one batch a call."""
        return await self._database.write(lambda c: purge.purge_expired(c, before, limit))


def _insert(connection: Connection, record: ResponseRecord, held: dict[str, Any]) -> None:
    row = response_row(record) | held | {"conversation_start": _conversation_end(record)}
    connection.execute(insert(responses).values(row))
    insert_response_items(connection, record, "input", record.input)


def _conversation_end(record: ResponseRecord) -> ScalarSelect[int]:
    return (
        select(conversations.c.next_position)
        .where(
            conversations.c.id == record.conversation_id,
            conversations.c.owner == record.owner,
        )
        .scalar_subquery()
    )


def _save(connection: Connection, record: ResponseRecord, lease: Lease | None) -> None:
    if lease is not None:
        check_lease(connection, lease)
    query = select(responses).where(responses.c.id == record.id).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        _insert(connection, record, {})
    else:
        _check_change(row, record, lease)
        _update(connection, record)
    insert_response_items(connection, record, "output", record.output)


def _check_change(row: RowOf, record: ResponseRecord, lease: Lease | None) -> None:
    if row.owner != record.owner or row.deleted:
        raise Conflict(f"The id {record.id!r} cannot be used")
    if row.status not in UNFINISHED and not row.status == record.status == "cancelled":
        raise Conflict(f"Response {record.id!r} is {row.status} already")
    if lease is None and row.lease_holder is not None:
        raise LeaseLost(f"Response {record.id!r} is being worked on by {row.lease_holder}")


def _update(connection: Connection, record: ResponseRecord) -> None:
    ended = {} if record.status in UNFINISHED else NO_LEASE
    own = items.c.response_id == record.id
    connection.execute(
        update(responses).where(responses.c.id == record.id).values(response_row(record) | ended)
    )
    connection.execute(items.delete().where(own, items.c.direction == "output"))
    if not connection.scalar(select(exists().where(own))):
        insert_response_items(connection, record, "input", record.input)


def _get(connection: Connection, response_id: str, owner: str) -> ResponseRecord:
    row = visible_response(connection, response_id, owner)
    query = (
        select(items.c.direction, items.c.payload)
        .where(items.c.response_id == row.id)
        .order_by(items.c.direction, items.c.position)
    )
    return response_record(row, connection.execute(query).all())


def _history(connection: Connection, response_id: str, owner: str) -> tuple[Item, ...]:
    query = select(responses.c.status).where(is_visible(response_id, owner))
    status = connection.scalar(query)
    if status is None:
        raise PreviousResponseNotFound(
            f"Previous response with id {response_id!r} not found", param="previous_response_id"
        )
    if status in UNFINISHED:
        raise InvalidRequest(
            f"Previous response {response_id!r} is {status}; wait for its end",
            param="previous_response_id",
        )
    rows = connection.execute(_said(response_id, owner))
    return tuple(to_item(row.payload) for row in rows)


def _input_items(connection: Connection, response_id: str, owner: str, page: Page) -> ItemPage:
    visible_response(connection, response_id, owner)
    payloads: dict[str, str] = {}
    for row in connection.execute(_said(response_id, owner)):
        if row.depth > 0 or row.section != "output":
            payloads.setdefault(row.item_id, row.payload)
    ids = list(payloads) if page.order == "asc" else list(reversed(payloads))
    if page.after is not None:
        if page.after not in payloads:
            raise InvalidRequest(f"No item {page.after!r} in this list", param="after")
        ids = ids[ids.index(page.after) + 1 :]
    shown = tuple(to_item(payloads[each]) for each in ids[: page.limit])
    return ItemPage(shown, has_more=len(ids) > page.limit)


def _said(response_id: str, owner: str) -> Select[Any]:
    """All items up to this response, oldest first; its own have depth 0.

    A response made in a conversation is the beginning of its chain: before it comes what the
    conversation held then.
    """
    columns = (
        responses.c.id,
        responses.c.previous_response_id,
        responses.c.conversation_id,
        responses.c.conversation_start,
    )
    chain = (
        select(*columns, literal(0).label("depth"))
        .where(responses.c.id == response_id, responses.c.owner == owner)
        .cte("chain", recursive=True)
    )
    chain = chain.union_all(
        select(*columns, chain.c.depth + 1)
        .join_from(responses, chain, responses.c.id == chain.c.previous_response_id)
        .where(responses.c.owner == owner)
    )
    own = select(
        chain.c.depth,
        items.c.direction.label("section"),
        items.c.position.label("place"),
        items.c.item_id,
        items.c.payload,
    ).join_from(chain, items, items.c.response_id == chain.c.id)
    before = select(
        chain.c.depth,
        literal("before").label("section"),
        items.c.conversation_position.label("place"),
        items.c.item_id,
        items.c.payload,
    ).join_from(
        chain,
        items,
        (items.c.conversation_id == chain.c.conversation_id)
        & (items.c.conversation_position < chain.c.conversation_start)
        & (items.c.owner == owner),
    )
    said = union_all(own, before).subquery("said")
    # The alphabet puts before, input and output in order.
    return select(said).order_by(said.c.depth.desc(), said.c.section, said.c.place)


def _find_items(connection: Connection, ids: list[str], owner: str) -> dict[str, Item]:
    found: dict[str, str] = {}
    for start in range(0, len(ids), IDS_AT_ONCE):
        query = (
            select(items.c.item_id, items.c.payload)
            .outerjoin(responses, responses.c.id == items.c.response_id)
            .where(
                items.c.owner == owner,
                items.c.item_id.in_(ids[start : start + IDS_AT_ONCE]),
                items.c.conversation_id.is_not(None) | responses.c.deleted.is_(False),
            )
            .order_by(items.c.key)
        )
        found |= {row.item_id: row.payload for row in connection.execute(query)}
    return {item_id: to_item(payload) for item_id, payload in found.items()}
