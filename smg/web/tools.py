"""The `tools` array of a request, read and checked; nothing is asked of any server yet."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smg.errors import InvalidRequest
from smg.json_reader import Reader
from smg.turn import (
    CustomTool,
    FunctionTool,
    Syntax,
    Tool,
)

Json = dict[str, Any]

FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}\Z")
DROPPED_TYPES = frozenset({"web_search", "web_search_preview", "tool_search"})
"""Hosted tools that stock Codex always sends: accepted, and not offered unless configured."""


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
