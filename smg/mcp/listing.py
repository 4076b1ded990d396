"""Asks a connected server for its tools, and learns when to ask again.

Takes the SDK's client, gives a `Catalog`. Sets no deadline: whoever calls does.
"""

import asyncio
import logging
from collections.abc import Callable

from mcp import Client, MCPError
from mcp.client.subscriptions import SubscriptionLost
from mcp.types import Tool
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

from smg.mcp.definitions import MAX_TOOLS, Catalog, read_tools

# A server that invents a next page for ever ends here.
_MAX_PAGES = 100
_LISTEN_AGAIN_SECONDS = 5.0

_log = logging.getLogger(__name__)


async def list_tools(client: Client) -> Catalog:
    """The server's tools, all pages; none if it has no tools at all."""
    listed: list[Tool] = []
    if client.server_capabilities.tools is None:
        return read_tools(listed)
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        listed += page.tools
        cursor = page.next_cursor
        if cursor is None or len(listed) > MAX_TOOLS:
            break
    return read_tools(listed)


async def follow_changes(client: Client, changed: Callable[[], None]) -> None:
    """Say when the tools changed, on servers that tell only those who listen (since 2026-07-28).

    Older servers tell it unasked, as a notification.
    """
    if client.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return
    while True:
        try:
            async with client.listen(tools_list_changed=True) as changes:
                changed()  # What changed before we listened was told to nobody.
                async for _ in changes:
                    changed()
        except MCPError as error:
            _log.debug("The server takes no listeners: %s", error)
            return
        except SubscriptionLost:
            _log.debug("The server dropped its listeners", exc_info=True)
        await asyncio.sleep(_LISTEN_AGAIN_SECONDS)
