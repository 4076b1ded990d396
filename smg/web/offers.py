"""Tools asked for to tools offered: under which name the model sees each, and who answers.

Function and custom tools are the client's. MCP tools are asked of their servers here, which is the
only waiting; hosted tools are those that the operator routes to an MCP server.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smg.errors import InvalidRequest
from smg.items import Item, McpListTools, McpTool
from smg.json_reader import Reader
from smg.turn import CustomTool, FunctionTool, NewId, Offer, ServerTool, Tool, ToolChoice
from smg.web.tools import DROPPED_TYPES, HOSTED_ITEMS, McpRequest, RequestedTools

ListTools = Callable[[str], Awaitable[tuple[McpTool, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPolicy:
    """What the operator's configuration says about one MCP server."""

    label: str
    needs_approval: Callable[[str], bool]
    asks_by_default: bool = False
    """Whether calls wait for approval when the request says nothing."""
    builtin_type: str | None = None
    """The hosted tool type this server stands in for: web_search_preview, ..."""
    builtin_tool: str | None = None
    internal: bool = False
    """Whether requests cannot name it: it stands in for hosted tools only."""


@dataclass(slots=True)
class OfferedTools:
    """What the model is offered, and the lists that are new to this conversation."""

    offers: tuple[Offer, ...] = ()
    listings: tuple[McpListTools, ...] = ()


async def offer_tools(
    requested: RequestedTools,
    *,
    policies: Mapping[str, ServerPolicy],
    list_tools: ListTools,
    context: Iterable[Item],
    new_id: NewId,
) -> OfferedTools:
    """Ask the servers for their tools and give every tool a name the model can tell apart.

    Raises:
        InvalidRequest: a server is not configured here.
        ToolServerError: a server does not answer.
    """
    listed = {item.server_label for item in context if isinstance(item, McpListTools)}
    tools: list[Tool] = list(requested.client)
    listings: list[McpListTools] = []
    for server in requested.servers:
        policy = _policy(server, policies)
        described = _selected(await list_tools(server.label), server)
        tools += [_server_tool(tool, server, policy) for tool in described]
        if server.label not in listed:
            listings.append(
                McpListTools(id=new_id("mcpl"), server_label=server.label, tools=described)
            )
    for kind in dict.fromkeys(requested.hosted):
        tools += await _hosted_tool(kind, policies, list_tools)
    return OfferedTools(tuple(named(tools)), tuple(listings))


def _policy(server: McpRequest, policies: Mapping[str, ServerPolicy]) -> ServerPolicy:
    policy = policies.get(server.label)
    if policy is not None and not policy.internal:
        return policy
    known = ", ".join(label for label, p in policies.items() if not p.internal) or "none"
    raise InvalidRequest(
        f"Invalid '{server.path}.server_label': no MCP server {server.label!r} is configured "
        f"here (configured: {known}).",
        param=f"{server.path}.server_label",
    )


def _selected(tools: Iterable[McpTool], server: McpRequest) -> tuple[McpTool, ...]:
    if server.allowed is None:
        return tuple(tools)
    return tuple(tool for tool in tools if _matches(tool, server.allowed))


def _matches(tool: McpTool, rule: Mapping[str, Any]) -> bool:
    """Whether a tool falls under {"tool_names": [...], "read_only": bool}."""
    names, read_only = rule.get("tool_names"), rule.get("read_only")
    if names is not None and tool.name not in names:
        return False
    is_read_only = (tool.annotations or {}).get("readOnlyHint") is True
    return read_only is None or read_only == is_read_only


def _needs_approval(tool: McpTool, server: McpRequest, policy: ServerPolicy) -> bool:
    """A request can ask for more approvals than the operator did, never for fewer."""
    if policy.needs_approval(tool.name):
        return True
    match server.approval:
        case "always":
            return True
        case None:
            return policy.asks_by_default
        case "never":
            return False
        case rules:
            if "always" in rules and _matches(tool, rules["always"] or {}):
                return True
            return "never" in rules and not _matches(tool, rules["never"] or {})


def _server_tool(tool: McpTool, server: McpRequest, policy: ServerPolicy) -> ServerTool:
    return ServerTool(
        server=server.label,
        name=tool.name,
        description=tool.description,
        parameters=tool.input_schema,
        needs_approval=_needs_approval(tool, server, policy),
    )


async def _hosted_tool(
    kind: str, policies: Mapping[str, ServerPolicy], list_tools: ListTools
) -> list[Tool]:
    """The MCP tool that stands in for a hosted one; none when the operator named none."""
    for policy in policies.values():
        if policy.builtin_type is None or kind not in HOSTED_ITEMS:
            continue
        if HOSTED_ITEMS.get(policy.builtin_type) != HOSTED_ITEMS[kind]:
            continue
        return [
            ServerTool(
                server=policy.label,
                name=tool.name,
                description=tool.description,
                parameters=tool.input_schema,
                shown_as=HOSTED_ITEMS[kind],
            )
            for tool in await list_tools(policy.label)
            if policy.builtin_tool in (None, tool.name)
        ]
    if kind in DROPPED_TYPES:
        return []
    raise InvalidRequest(
        f"Unsupported tool type {kind!r}: no MCP server stands in for it here.",
        param="tools",
        code="unsupported_parameter",
    )


def named(tools: Iterable[Tool]) -> Iterable[Offer]:
    """Give each tool a name of its own; the client's functions keep theirs."""
    taken: set[str] = set()
    later: list[Tool] = []
    for tool in tools:
        if isinstance(tool, ServerTool):
            later.append(tool)
            continue
        name = f"{tool.namespace}__{tool.name}" if tool.namespace else tool.name
        taken.add(name)
        yield Offer(name, tool)
    for tool in later:
        assert isinstance(tool, ServerTool)
        name = _free_name(tool, taken)
        taken.add(name)
        yield Offer(name, tool)


def _free_name(tool: ServerTool, taken: set[str]) -> str:
    plain = re.sub(r"[^a-zA-Z0-9_.-]", "_", tool.name)
    qualified = f"{re.sub(r'[^a-zA-Z0-9_-]', '_', tool.server)}__{plain}"
    candidates = [plain, qualified, *(f"{qualified}_{n}" for n in range(2, len(taken) + 3))]
    return next(name for name in candidates if name not in taken)


def read_choice(given: str | Mapping[str, Any] | None, offers: Sequence[Offer]) -> ToolChoice:
    """The `tool_choice` field.

    Raises:
        InvalidRequest: it is ill-formed, or names a tool that is not offered.
    """
    match given:
        case None | "auto":
            return ToolChoice()
        case "none":
            return ToolChoice(mode="none")
        case "required":
            if not offers:
                raise InvalidRequest(
                    "Invalid 'tool_choice': 'required' needs tools.", param="tool_choice"
                )
            return ToolChoice(mode="required")
        case Mapping():
            return _named_choice(Reader(given, "tool_choice"), offers)
        case _:
            raise InvalidRequest(
                "Invalid 'tool_choice': expected 'auto', 'none', 'required' or an object.",
                param="tool_choice",
                code="invalid_value",
            )


def _named_choice(choice: Reader, offers: Sequence[Offer]) -> ToolChoice:
    if choice.text("type") == "allowed_tools":
        nested = choice.fields.get("allowed_tools")
        inner = Reader(nested, choice.path) if isinstance(nested, Mapping) else choice
        mode = inner.optional("mode") or "auto"
        if mode not in ("auto", "required"):
            raise inner.error("mode", "'auto' or 'required'")
        names = {name for tool in inner.objects("tools") for name in _chosen(tool, offers)}
        return ToolChoice(mode="required" if mode == "required" else "auto", names=frozenset(names))
    return ToolChoice(mode="required", names=frozenset(_chosen(choice, offers)))


def _chosen(choice: Reader, offers: Sequence[Offer]) -> set[str]:
    """The offered names that one choice object means."""
    kind = choice.text("type")
    nested = choice.fields.get(kind)  # Chat's form: {"type": "function", "function": {"name"}}.
    inner = Reader(nested, f"{choice.path}.{kind}") if isinstance(nested, Mapping) else choice
    name = inner.optional("name")
    found = {offer.name for offer in offers if _is_chosen(offer, kind, name, choice)}
    if not found:
        wanted = name or choice.optional("server_label") or kind
        raise InvalidRequest(
            f"Invalid 'tool_choice': {kind} '{wanted}' not found in 'tools'.", param="tool_choice"
        )
    return found


def _is_chosen(offer: Offer, kind: str, name: str | None, choice: Reader) -> bool:
    match offer.tool:
        case FunctionTool() | CustomTool() as tool:
            is_kind = kind == ("function" if isinstance(tool, FunctionTool) else "custom")
            return is_kind and name in (tool.name, offer.name)
        case ServerTool() as tool if kind == "mcp":
            return tool.server == choice.optional("server_label") and name in (None, tool.name)
        case ServerTool() as tool:
            return HOSTED_ITEMS.get(kind) == tool.shown_as
