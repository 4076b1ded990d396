"""The tool servers over HTTP: how they are, and the configuration file read again.

Nothing here adds a server, or tells where one is.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter, Request

from smg.errors import ConfigError, InvalidRequest
from smg.mcp.toolbox import Reloaded, ServerStatus, Toolbox

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The endpoints, and what they work with."""

    toolbox: Toolbox
    reload: Callable[[], Awaitable[Reloaded]]
    owner_of: Callable[[Request], str]
    """Refuses who has no key, where keys are set."""

    def router(self) -> APIRouter:
        """The table of paths."""
        router = APIRouter(tags=["MCP"])
        router.get("/v1/mcp/servers")(self.servers)
        router.post("/mcp/reload")(self.read_again)
        return router

    async def servers(self, request: Request) -> Json:
        """List the configured MCP servers: state, tools, last error."""
        self.owner_of(request)
        shown = [_shown(status) for status in self.toolbox.statuses() if not status.internal]
        return {"object": "list", "data": shown}

    async def read_again(self, request: Request) -> Json:
        """Read the configuration file again; approves tools that were held back."""
        self.owner_of(request)
        try:
            reloaded = await self.reload()
        except ConfigError as error:
            raise InvalidRequest(
                f"The MCP configuration was not taken over: {error}", code="invalid_config"
            ) from error
        return {"object": "mcp.reload", **asdict(reloaded)}


def _shown(status: ServerStatus) -> Json:
    """One server, without its address: that is between the operator and the server."""
    fields = asdict(status)
    del fields["address"], fields["internal"]
    return {"object": "mcp.server", "server_label": fields.pop("label"), **fields}
