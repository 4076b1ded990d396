"""The bodies of /v1/conversations, as they come over the wire. Used at the edge only."""

from typing import Annotated, Any

from pydantic import Field

from smg.web.schema import Metadata, Wire

Items = Annotated[list[Any], Field(max_length=20)]


class CreateConversation(Wire):
    """POST /v1/conversations."""

    items: Items | None = None
    metadata: Annotated[Metadata, Field(max_length=16)] | None = None


class UpdateConversation(Wire):
    """POST /v1/conversations/{id}."""

    metadata: Annotated[Metadata, Field(max_length=16)]


class CreateItems(Wire):
    """POST /v1/conversations/{id}/items."""

    items: Items
