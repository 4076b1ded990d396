"""/v1/conversations over HTTP: state without a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request

from smg.conversations.schema import CreateConversation, CreateItems, UpdateConversation
from smg.errors import InvalidRequest
from smg.item_json import from_wire, to_wire
from smg.items import Item
from smg.storage.base import Store
from smg.storage.records import Conversation, ItemPage
from smg.turn import NewId, Now
from smg.web.auth import OwnerOf
from smg.web.body import body_of, read_body
from smg.web.pages import item_list, page_of

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The endpoints, and what they work with."""

    store: Store
    new_id: NewId
    now: Now
    owner_of: OwnerOf
    max_body_bytes: int

    def router(self) -> APIRouter:
        """The table of paths."""
        router = APIRouter(prefix="/v1/conversations", tags=["Conversations"])
        router.post("", openapi_extra=body_of(CreateConversation))(self.create)
        router.get("/{conversation_id}")(self.retrieve)
        router.post("/{conversation_id}", openapi_extra=body_of(UpdateConversation))(self.update)
        router.delete("/{conversation_id}")(self.delete)
        router.post("/{conversation_id}/items", openapi_extra=body_of(CreateItems))(self.add)
        router.get("/{conversation_id}/items")(self.items)
        router.get("/{conversation_id}/items/{item_id}")(self.item)
        router.delete("/{conversation_id}/items/{item_id}")(self.delete_item)
        return router

    async def create(self, request: Request) -> Json:
        """Create a conversation."""
        owner = self.owner_of(request)
        body = await read_body(request, CreateConversation, self.max_body_bytes)
        conversation = Conversation(
            id=self.new_id("conv"),
            owner=owner,
            created_at=self.now(),
            metadata=body.metadata or {},
        )
        items = _read_items(body.items or (), self.new_id)
        await self.store.conversations.create(conversation, items)
        return _shown(conversation)

    async def retrieve(self, request: Request, conversation_id: str) -> Json:
        """Get a conversation, without its items."""
        owner = self.owner_of(request)
        return _shown(await self.store.conversations.get(conversation_id, owner))

    async def update(self, request: Request, conversation_id: str) -> Json:
        """Replace a conversation's metadata."""
        owner = self.owner_of(request)
        body = await read_body(request, UpdateConversation, self.max_body_bytes)
        conversations = self.store.conversations
        return _shown(await conversations.update_metadata(conversation_id, owner, body.metadata))

    async def delete(self, request: Request, conversation_id: str) -> Json:
        """Delete a conversation; responses made in it stay."""
        await self.store.conversations.delete(conversation_id, self.owner_of(request))
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    async def add(self, request: Request, conversation_id: str) -> Json:
        """Append items."""
        owner = self.owner_of(request)
        body = await read_body(request, CreateItems, self.max_body_bytes)
        items = _read_items(body.items, self.new_id)
        await self.store.conversations.add_items(conversation_id, owner, items)
        return item_list(ItemPage(items, has_more=False))

    async def items(self, request: Request, conversation_id: str) -> Json:
        """List a conversation's items."""
        owner, page = self.owner_of(request), page_of(request)
        return item_list(await self.store.conversations.list_items(conversation_id, owner, page))

    async def item(self, request: Request, conversation_id: str, item_id: str) -> Json:
        """Get one item."""
        owner = self.owner_of(request)
        return to_wire(await self.store.conversations.item(conversation_id, owner, item_id))

    async def delete_item(self, request: Request, conversation_id: str, item_id: str) -> Json:
        """Take one item out of a conversation; answers with the conversation."""
        owner = self.owner_of(request)
        conversations = self.store.conversations
        return _shown(await conversations.delete_item(conversation_id, owner, item_id))


def _read_items(given: Sequence[Any], new_id: NewId) -> tuple[Item, ...]:
    items: list[Item] = []
    for n, fields in enumerate(given):
        if not isinstance(fields, Mapping):
            raise InvalidRequest(f"Invalid 'items[{n}]': expected an object.", param=f"items[{n}]")
        items.append(from_wire(fields, path=f"items[{n}]", new_id=new_id))
    return tuple(items)


def _shown(conversation: Conversation) -> Json:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": dict(conversation.metadata),
    }
