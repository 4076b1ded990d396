"""The tools of a request: wire definitions to what the model is offered, and by whom answered.

Function and custom tools are the client's. MCP tools are those of the servers this gateway is
configured with; `Listing` gets them, and is the only thing here that waits.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smg.errors import InvalidRequest
from smg.items import Item, McpListTools, McpTool
from smg.json_reader import Reader
from smg.turn import (
    CustomTool,
    FunctionTool,
    NewId,
    Offer,
    ServerTool,
    Syntax,
    Tool,
    ToolChoice,
)

Json = dict[str, Any]

FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}\Z")
DROPPED_TYPES = frozenset({"web_search", "web_search_preview", "tool_search"})
"""Hosted tools that stock Codex always sends: accepted, and not offered unless configured."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class McpRequest:
    """One `{"type": "mcp"}` tool of a request."""

    label: str
    allowed: Mapping[str, Any] | None
    """None: all; else {"tool_names": [...] | None, "read_only": bool | None}."""
    approval: Any
    """never, always, {"always": {...}, "never": {...}}, or None: as configured."""
    path: str
    url: str | None = None
    """Where the server is, when it is not one of this gateway's."""
    authorization: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


ListTools = Callable[[str], Awaitable[tuple[McpTool, ...]]]


@dataclass(slots=True)
class RequestedTools:
    """The `tools` array, read and checked; MCP servers not yet asked for their tools."""

    client: list[Tool] = field(default_factory=list)
    servers: list[McpRequest] = field(default_factory=list)
    hosted: list[str] = field(default_factory=list)
    """Hosted tool types asked for, in order."""
    echo: list[Json] = field(default_factory=list)
    """The tools as the response shows them: whole, and without secrets."""


def read_tools(given: Sequence[Mapping[str, Any]], path: str = "tools") -> RequestedTools:
    """Read the `tools` array.

    Raises:
        InvalidRequest: a tool is ill-formed, of a type not served here, or named twice.
    """
    requested = RequestedTools()
    for n, fields in enumerate(given):
        _read_tool(Reader(fields, f"{path}[{n}]"), requested)
    _refuse_doubles(requested, path)
    return requested


def _read_tool(tool: Reader, requested: RequestedTools) -> None:
    match tool.text("type"):
        case "function":
            function = _function(tool)
            requested.client.append(function)
            requested.echo.append(_function_echo(function))
        case "custom":
            requested.client.append(_custom(tool))
            requested.echo.append(dict(tool.fields))
        case "namespace":
            requested.client += _namespace(tool)
            requested.echo.append(dict(tool.fields))
        case "mcp":
            requested.servers.append(_mcp(tool))
            requested.echo.append(_without_secrets(tool.fields))
        case kind if kind in DROPPED_TYPES or kind in HOSTED_ITEMS:
            requested.hosted.append(kind)
            requested.echo.append(dict(tool.fields))
        case kind:
            raise InvalidRequest(
                f"Unsupported tool type: '{tool.path}.type' is {kind!r}.",
                param=f"{tool.path}.type",
                code="unsupported_parameter",
            )


HOSTED_ITEMS = {
    "web_search": "web_search_call",
    "web_search_preview": "web_search_call",
    "file_search": "file_search_call",
    "code_interpreter": "code_interpreter_call",
}
"""Hosted tool types that an MCP server may stand in for, and the items of their calls."""


def _name(tool: Reader) -> str:
    name = tool.text("name")
    if not FUNCTION_NAME.match(name):
        raise tool.error("name", "letters, digits, '_', '-' or '.', at most 128")
    return name


def _function(tool: Reader, namespace: str | None = None) -> FunctionTool:
    parameters = tool.fields.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise tool.error("parameters", "a JSON schema (an object)")
    strict = tool.fields.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise tool.error("strict", "a boolean")
    return FunctionTool(
        name=_name(tool),
        description=tool.optional("description"),
        parameters=parameters,
        strict=strict,
        namespace=namespace,
    )


def _function_echo(tool: FunctionTool) -> Json:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }


def _custom(tool: Reader, namespace: str | None = None) -> CustomTool:
    form = tool.fields.get("format") or {}
    if not isinstance(form, Mapping):
        raise tool.error("format", "an object")
    syntax: Syntax = "text"
    match form.get("type"), form.get("syntax"):
        case "grammar", ("lark" | "regex") as given:
            syntax = given
        case "grammar", _:
            raise tool.error("format.syntax", "'lark' or 'regex'")
    return CustomTool(
        name=_name(tool),
        description=tool.optional("description"),
        syntax=syntax,
        definition=Reader(form, f"{tool.path}.format").optional("definition"),
        namespace=namespace,
    )


def _namespace(tool: Reader) -> list[Tool]:
    name = _name(tool)
    tools: list[Tool] = []
    for inner in tool.objects("tools"):
        kind = inner.text("type")
        if kind not in ("function", "custom"):
            raise inner.error("type", "'function' or 'custom'")
        tools.append(_function(inner, name) if kind == "function" else _custom(inner, name))
    return tools


def _mcp(tool: Reader) -> McpRequest:
    for key in ("connector_id", "tunnel_id"):
        if tool.fields.get(key) is not None:
            raise InvalidRequest(
                f"'{tool.path}.{key}' is not supported by a self-hosted gateway.",
                param=f"{tool.path}.{key}",
                code="unsupported_parameter",
            )
    return McpRequest(
        label=tool.text("server_label"),
        allowed=_allowed(tool),
        approval=_approval(tool),
        path=tool.path,
        url=tool.optional("server_url"),
        authorization=tool.optional("authorization"),
        headers=_headers(tool),
    )


def _headers(tool: Reader) -> Mapping[str, str]:
    match tool.fields.get("headers"):
        case None:
            return {}
        case dict() as headers if all(isinstance(value, str) for value in headers.values()):
            return headers
        case _:
            raise tool.error("headers", "an object of strings")


def _allowed(tool: Reader) -> Mapping[str, Any] | None:
    match tool.fields.get("allowed_tools"):
        case None:
            return None
        case list() as names if all(isinstance(name, str) for name in names):
            return {"tool_names": names}
        case dict() as allowed:
            return allowed
        case _:
            raise tool.error("allowed_tools", "an array of names or an object")


def _approval(tool: Reader) -> Any:
    match tool.fields.get("require_approval"):
        case None | "always" | "never" | dict() as approval:
            return approval
        case _:
            raise tool.error("require_approval", "'always', 'never' or an object")


def _without_secrets(fields: Mapping[str, Any]) -> Json:
    shown = {k: v for k, v in fields.items() if k not in ("authorization", "headers")}
    if isinstance(url := shown.get("server_url"), str):
        shown["server_url"] = url.partition("?")[0]  # A key may be in its query.
    return shown


def _refuse_doubles(requested: RequestedTools, path: str) -> None:
    seen: set[tuple[str | None, str]] = set()
    for tool in requested.client:
        assert isinstance(tool, FunctionTool | CustomTool)
        if (tool.namespace, tool.name) in seen:
            raise InvalidRequest(
                f"Invalid '{path}': two tools are named {tool.name!r}.", param=path
            )
        seen.add((tool.namespace, tool.name))
    labels = [server.label.lower() for server in requested.servers]
    if len(set(labels)) < len(labels):
        raise InvalidRequest(f"Invalid '{path}': a server_label is used twice.", param=path)


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
