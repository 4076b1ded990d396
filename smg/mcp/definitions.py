"""Tool definitions as a server gives them, to definitions a model may read.

A server is not trusted: text that people do not see is taken out, texts are cut, and a tool that
breaks a limit is left out and named. Pure functions; nothing here waits.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcp.types import Tool

from smg.items import McpTool

MAX_TOOLS = 256
_MAX_NAME = 128
_MAX_DESCRIPTION = 4096
_MAX_SCHEMA_BYTES = 65536
_MAX_SCHEMA_DEPTH = 32

# Controls, formats (bidi marks, zero width, tags), surrogates, private use: nothing of it is seen
# by the person who reads a definition, all of it by the model.
_UNSEEN = {"Cc", "Cf", "Cs", "Co"}


@dataclass(frozen=True, slots=True)
class Catalog:
    """The tools of one server."""

    tools: tuple[McpTool, ...] = ()
    left_out: tuple[str, ...] = ()
    """One line for each tool that is not offered: name and reason."""
    digest: str = ""
    """SHA-256 of the definitions as the server gave them, in any order."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """The same of each tool that may be offered, by its name."""


def read_tools(listed: Sequence[Tool]) -> Catalog:
    """What of a server's list may be offered."""
    tools: dict[str, McpTool] = {}
    left_out: list[str] = []
    for tool in listed[:MAX_TOOLS]:
        shown = clean_text(tool.name)[:_MAX_NAME]
        if reason := next(_faults(tool, tools), None):
            left_out.append(f"{shown}: {reason}")
        else:
            tools[tool.name] = _read_tool(tool)
    if len(listed) > MAX_TOOLS:
        left_out.append(f"{len(listed) - MAX_TOOLS} tools: more than {MAX_TOOLS} in one server")
    kept = [tool for tool in listed[:MAX_TOOLS] if tool.name in tools]
    dumps = {tool.name: _dump(tool) for tool in sorted(kept, key=lambda tool: tool.name)}
    return Catalog(
        tuple(tools.values()),
        tuple(left_out),
        _digest(list(dumps.values())),
        {name: _digest(dump) for name, dump in dumps.items()},
    )


def clean_text(text: str) -> str:
    """The text without characters that nobody sees; line ends and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _UNSEEN)


def _faults(tool: Tool, before: Mapping[str, McpTool]) -> Iterator[str]:
    """Why a tool cannot be offered; each check relies on the ones before it."""
    schema = tool.input_schema
    if not tool.name or len(tool.name) > _MAX_NAME or not _is_plain(tool.name):
        yield f"its name is not 1 to {_MAX_NAME} visible characters"
    if tool.name in before:
        yield "there are two tools of this name"
    if _depth(schema) > _MAX_SCHEMA_DEPTH:
        yield f"its schema is nested deeper than {_MAX_SCHEMA_DEPTH} levels"
    if len(json.dumps(schema).encode()) > _MAX_SCHEMA_BYTES:
        yield f"its schema is larger than {_MAX_SCHEMA_BYTES} bytes"
    if schema.get("type", "object") != "object":
        yield "its schema does not describe an object"
    if _foreign_reference(schema):
        yield "its schema refers to another document"


def _is_plain(name: str) -> bool:
    return name == clean_text(name) and not any(c.isspace() for c in name)


def _depth(value: object) -> int:
    """How deep containers nest; without recursion, which hostile depth would exhaust."""
    depth, level = 0, [value]
    while level := [child for parent in level for child in _children(parent)]:
        depth += 1
        if depth > _MAX_SCHEMA_DEPTH:
            break
    return depth


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _foreign_reference(value: object) -> bool:
    if isinstance(value, dict):
        reference = value.get("$ref", "#")
        if isinstance(reference, str) and not reference.startswith("#"):
            return True
    return any(_foreign_reference(child) for child in _children(value))


def _read_tool(tool: Tool) -> McpTool:
    annotations = tool.annotations
    return McpTool(
        name=tool.name,
        input_schema=_clean(tool.input_schema),
        description=None if tool.description is None else _description(tool.description),
        annotations=None
        if annotations is None
        else _clean(annotations.model_dump(by_alias=True, mode="json", exclude_none=True)),
    )


def _description(text: str) -> str:
    text = clean_text(text)
    if len(text) <= _MAX_DESCRIPTION:
        return text
    shown = f"{_MAX_DESCRIPTION} of {len(text)} characters shown"
    return f"{text[:_MAX_DESCRIPTION]}... [truncated: {shown}]"


def _clean(value: Any) -> Any:
    """JSON with every string cleaned, keys too."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(key): _clean(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_clean(child) for child in value]
    return value


def _dump(tool: Tool) -> Any:
    fields = {"name", "title", "description", "input_schema", "output_schema", "annotations"}
    return tool.model_dump(by_alias=True, mode="json", exclude_none=True, include=fields)


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
