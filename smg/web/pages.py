"""Lists of items: their query parameters and their JSON."""

from typing import Any

from fastapi import Request

from smg.errors import InvalidRequest
from smg.item_json import to_wire
from smg.storage.records import ItemPage, Page

MAX_LIMIT = 100


def page_of(request: Request) -> Page:
    """The page a list request asks for.

    Raises:
        InvalidRequest: limit is not 1 to 100, or order neither asc nor desc.
    """
    query = request.query_params
    limit = query.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit) <= MAX_LIMIT:
        raise InvalidRequest(
            f"Invalid 'limit': expected 1 to {MAX_LIMIT}, got {limit!r}.", param="limit"
        )
    match query.get("order", "desc"):
        case "asc" | "desc" as order:
            return Page(limit=int(limit), order=order, after=query.get("after"))
        case order:
            raise InvalidRequest(
                f"Invalid 'order': expected 'asc' or 'desc', got {order!r}.", param="order"
            )


def item_list(page: ItemPage) -> dict[str, Any]:
    """A page as a list object."""
    return {
        "object": "list",
        "data": [to_wire(item) for item in page.items],
        "first_id": page.first_id,
        "last_id": page.last_id,
        "has_more": page.has_more,
    }
