"""Conversations in SQL: made, read, changed and held; their items are next door."""

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, delete, insert, update

from smg.items import Item
from smg.storage.conversation_items import (
    add_items,
    all_items,
    conversation_row,
    is_conversation,
    locked,
    one_item,
    page_of_items,
    reserve,
    take_out,
)
from smg.storage.database import Database
from smg.storage.records import Conversation, ItemPage, Page
from smg.storage.rows import is_free, to_text
from smg.storage.tables import conversations, database_now


class SqlConversations:
    """A ConversationStore on a migrated database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, conversation: Conversation, items: Sequence[Item] = ()) -> None:
        """Store a new conversation that begins with these items."""

        def work(connection: Connection) -> None:
            row = {
                "id": conversation.id,
                "owner": conversation.owner,
                "created_at": conversation.created_at,
                "metadata": to_text(conversation.metadata),
            }
            connection.execute(insert(conversations).values(row))
            add_items(connection, conversation.id, conversation.owner, items)

        await self._database.write(work)

    async def get(self, conversation_id: str, owner: str) -> Conversation:
        """The conversation without its items."""
        return await self._database.read(lambda c: _get(c, conversation_id, owner))

    async def update_metadata(
        self, conversation_id: str, owner: str, metadata: Mapping[str, str]
    ) -> Conversation:
        """Replace the metadata."""

        def work(connection: Connection) -> Conversation:
            connection.execute(
                update(conversations)
                .where(is_conversation(conversation_id, owner))
                .values(metadata=to_text(metadata))
            )
            return _get(connection, conversation_id, owner)

        return await self._database.write(work)

    async def delete(self, conversation_id: str, owner: str) -> None:
        """Forget the conversation and the items that are no response's."""

        def work(connection: Connection) -> None:
            # An empty append: waits for those that are under way, and keeps new ones out.
            reserve(connection, conversation_id, owner, 0)
            take_out(connection, conversation_id)
            connection.execute(delete(conversations).where(conversations.c.id == conversation_id))

        await self._database.write(work)

    async def add_items(self, conversation_id: str, owner: str, items: Sequence[Item]) -> None:
        """Append items."""
        await self._database.write(lambda c: add_items(c, conversation_id, owner, items))

    async def items(self, conversation_id: str, owner: str) -> tuple[Item, ...]:
        """All items, oldest first."""
        return await self._database.read(lambda c: all_items(c, conversation_id, owner))

    async def list_items(self, conversation_id: str, owner: str, page: Page) -> ItemPage:
        """A page of the items."""
        return await self._database.read(lambda c: page_of_items(c, conversation_id, owner, page))

    async def item(self, conversation_id: str, owner: str, item_id: str) -> Item:
        """One item."""
        return await self._database.read(lambda c: one_item(c, conversation_id, owner, item_id))

    async def delete_item(self, conversation_id: str, owner: str, item_id: str) -> Conversation:
        """Take an item out of the conversation; a response that has it keeps it."""

        def work(connection: Connection) -> Conversation:
            one_item(connection, conversation_id, owner, item_id)
            take_out(connection, conversation_id, item_id)
            return _get(connection, conversation_id, owner)

        return await self._database.write(work)

    async def lock(self, conversation_id: str, owner: str, holder: str, ttl: float) -> None:
        """Reserve the conversation for one turn, named by its response's id."""
        take = (
            update(conversations)
            .where(
                is_conversation(conversation_id, owner),
                is_free(conversations.c.lock_until) | (conversations.c.lock_holder == holder),
            )
            .values(lock_holder=holder, lock_until=database_now() + ttl)
            .returning(conversations.c.id)
        )

        def work(connection: Connection) -> None:
            if connection.execute(take).one_or_none() is None:
                conversation_row(connection, conversation_id, owner)
                raise locked(conversation_id)

        await self._database.write(work)

    async def unlock(self, conversation_id: str, owner: str, holder: str) -> None:
        """Give the conversation back, if this holder has it."""
        give = (
            update(conversations)
            .where(is_conversation(conversation_id, owner), conversations.c.lock_holder == holder)
            .values(lock_holder=None, lock_until=None)
        )
        await self._database.write(lambda c: c.execute(give))


def _get(connection: Connection, conversation_id: str, owner: str) -> Conversation:
    row = conversation_row(connection, conversation_id, owner)
    return Conversation(
        id=row.id,
        owner=row.owner,
        created_at=row.created_at,
        metadata=json.loads(row.metadata),
    )
