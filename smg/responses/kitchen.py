"""What intake works with, and what it makes: the parts of the gateway, and an accepted order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from smg.agent.run import Model, Tools
from smg.events import Usage
from smg.items import Item, McpTool
from smg.responses.body import Head
from smg.responses.context import ApprovalRules
from smg.seal import Seal
from smg.storage.base import Store
from smg.turn import Limits, NewId, Now, ToolResult, Turn
from smg.web.offers import ServerPolicy
from smg.web.tools import McpRequest


class TurnModel(Model, Protocol):
    """A model as intake sees it."""

    @property
    def name(self) -> str:
        """What clients call it."""
        ...

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The model's own sampling defaults: temperature, top_p, ..."""
        ...

    async def count(self, turn: Turn) -> int:
        """How many tokens the turn's first prompt has."""
        ...

    def thinking_kwargs(self, effort: str | None) -> Mapping[str, Any]:
        """The template arguments that stand for a reasoning effort."""
        ...


class Models(Protocol):
    """The models served here."""

    def find(self, name: str) -> TurnModel:
        """The model of this name.

        Raises:
            ModelNotFound: there is none; the message names those there are.
        """
        ...


class RequestServer(Protocol):
    """An MCP server that a request brought along."""

    async def tools(self) -> tuple[McpTool, ...]:
        """Its tools.

        Raises:
            ToolServerError: the server does not answer.
        """
        ...

    async def call(self, name: str, arguments: str) -> ToolResult:
        """Run one call; a failing tool is a result, not an exception."""
        ...


class ToolListing(Tools, Protocol):
    """The MCP servers, as intake sees them."""

    @property
    def policies(self) -> Mapping[str, ServerPolicy]:
        """What the operator says of each server, by label."""
        ...

    @property
    def default_labels(self) -> Sequence[str]:
        """Servers whose tools are offered without being named."""
        ...

    async def tools(self, label: str) -> tuple[McpTool, ...]:
        """A server's tools.

        Raises:
            ToolServerError: the server does not answer.
        """
        ...

    async def open(self, server: McpRequest, owner: str) -> RequestServer:
        """Reach a server that a request brings along.

        Raises:
            InvalidRequest: requests may not name this server.
            ToolServerError: the server does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class TurnTools:
    """The tools of one turn: the gateway's servers, and those that the request brought."""

    configured: ToolListing
    brought: Mapping[str, RequestServer]

    @property
    def policies(self) -> Mapping[str, ServerPolicy]:
        """What is to be asked of whom; of servers the operator does not know, everything."""
        theirs = {
            label: ServerPolicy(label=label, needs_approval=lambda _: False, asks_by_default=True)
            for label in self.brought
        }
        return {**self.configured.policies, **theirs}

    async def tools(self, label: str) -> tuple[McpTool, ...]:
        """The tools of a server of either kind."""
        if label in self.brought:
            return await self.brought[label].tools()
        return await self.configured.tools(label)

    async def call(self, server: str, name: str, arguments: str) -> ToolResult:
        """Run one call where it belongs."""
        if server in self.brought:
            return await self.brought[server].call(name, arguments)
        return await self.configured.call(server, name, arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kitchen:
    """What intake works with: one of each thing the gateway has."""

    models: Models
    tools: ToolListing
    store: Store
    limits: Limits
    new_id: NewId
    now: Now
    seal: Seal
    approvals: ApprovalRules
    strict_calls: bool = True
    """Whether every call of the context must have been answered."""
    remembered: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    """What was said up to responses that nobody stores, by their ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request that has been accepted."""

    turn: Turn
    model: Model
    head: Head
    first: Any
    """What the model prepared for the first generation."""
    stored: bool
    streamed: bool
    background: bool
    seals_reasoning: bool
    tools: Tools | None = None
    """Who runs this order's calls, when it brought servers of its own; `None`: the gateway."""
    spent: Usage | None = None
    """Tokens that went into compacting the history before the turn began."""
    previous_response_id: str | None = None
    conversation_id: str | None = None
    denied: tuple[str, ...] = ()
    """The approval requests it answers with no; those with yes are the turn's approved calls."""
