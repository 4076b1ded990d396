"""What a tool answered, to the text a model reads; and what a model wrote, to a tool's arguments.

Nothing is lost without a word: pictures, sounds and files are named in the text and kept beside
it, what is cut is marked.
Pure functions; nothing here waits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mcp.types import (
    INVALID_PARAMS,
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from smg.items import Block, ToolError
from smg.turn import ToolResult

_NOT_KEPT = ", not kept: too large"
_META: dict[str, Any] = {"meta": True, "resource": {"meta": True}}


def read_arguments(text: str) -> dict[str, Any] | ToolResult:
    """The arguments a model wrote, or the error that tells it why they are none."""
    try:
        arguments = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(arguments, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return _bad_arguments("they hold half a surrogate pair")
    except (ValueError, RecursionError) as error:
        return _bad_arguments(str(error))
    if not isinstance(arguments, dict):
        return _bad_arguments(f"they are a JSON {_JSON_NAMES[type(arguments)]}")
    return arguments


_JSON_NAMES: Mapping[type, str] = {
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    list: "array",
    type(None): "null",
}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _bad_arguments(why: str) -> ToolResult:
    return failure(f"The arguments must be a JSON object: {why}", code=INVALID_PARAMS)


def failure(message: str, *, code: int | None = None) -> ToolResult:
    """A call that did not come to a result of the tool."""
    return ToolResult(error=ToolError(kind="mcp_protocol_error", message=message, code=code))


def read_result(result: CallToolResult, max_bytes: int) -> ToolResult:
    """A tool's answer: text for a model, and what is no text beside it; all within the limit.

    The text comes first. A block that does not fit beside it any more is named and marked in it.
    An answer that says it is an error is one.
    """
    told = [_told(block) for block in result.content]
    structured = _structured(result, told)
    room = max_bytes - len("\n".join([*(block.shown() for block in told), *structured]).encode())
    lines, content = list[str](), list[Block]()
    for block in told:
        kept = block.size <= max(room, 0)
        lines.append(block.shown() if kept else block.shown(_NOT_KEPT))
        if kept and block.form is not None:
            content.append(block.form)
            room -= block.size
    text = truncate("\n".join([*lines, *structured]), max_bytes)
    if result.is_error:
        kind = "mcp_tool_execution_error"
        error = ToolError(kind=kind, message=text or "The tool failed")
        return ToolResult(error=error, content=tuple(content))
    return ToolResult(output=text, content=tuple(content))


def truncate(text: str, max_bytes: int) -> str:
    """At most so many bytes of UTF-8, cut between characters, and a mark if anything is missing."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    shown = encoded[:max_bytes].decode("utf-8", "ignore")
    return f"{shown}... [truncated: {len(shown.encode())} of {len(encoded)} bytes shown]"


@dataclass(frozen=True, slots=True)
class _Told:
    """One block of an answer."""

    text: str = ""
    label: str = ""
    """Names what is no plain text."""
    form: Block | None = None
    """The block as it is kept; plain text is kept as text only."""
    size: int = 0
    """How many bytes it takes to keep it."""

    def shown(self, mark: str = "") -> str:
        """What a model reads of it."""
        if not self.label:
            return self.text
        return f"[{self.label}{mark}]" + (f"\n{self.text}" if self.text else "")


def _told(block: ContentBlock) -> _Told:
    match block:
        case TextContent():
            return _Told(block.text)
        case ImageContent() | AudioContent():
            label = f"{block.type} {block.mime_type}, {_size(block.data)} bytes"
            return _labelled(block, label)
        case ResourceLink():
            return _labelled(block, f"resource {block.uri}, {block.title or block.name}")
        case EmbeddedResource():
            return _embedded(block, block.resource)


def _embedded(
    block: EmbeddedResource, resource: TextResourceContents | BlobResourceContents
) -> _Told:
    if isinstance(resource, TextResourceContents):
        return _labelled(block, f"resource {resource.uri}", resource.text)
    kind = resource.mime_type or "application/octet-stream"
    return _labelled(block, f"resource {resource.uri}, {kind}, {_size(resource.blob)} bytes")


def _labelled(block: ContentBlock, label: str, text: str = "") -> _Told:
    # What servers write for themselves (_meta) is nobody's content.
    form = block.model_dump(by_alias=True, mode="json", exclude_none=True, exclude=_META)
    return _Told(text, label, form, len(json.dumps(form, ensure_ascii=False).encode()))


def _structured(result: CallToolResult, told: Sequence[_Told]) -> list[str]:
    """Structured content as JSON, unless the blocks say the same."""
    structured = result.structured_content
    if structured is None or _says([block.text or block.label for block in told], structured):
        return []
    return [json.dumps(structured, ensure_ascii=False)]


def _size(base64: str) -> int:
    """How many bytes the text encodes."""
    return len(base64.rstrip("=")) * 3 // 4


def _says(texts: list[str], structured: Any) -> bool:
    """Whether the text blocks tell what the structured content tells.

    Servers send both, for clients that read only one. The SDK wraps a plain value as
    {"result": value}, and gives a list one block for each of its elements.
    """
    forms = [structured]
    if isinstance(structured, dict) and structured.keys() == {"result"}:
        forms.append(structured["result"])
    values = [_loads(text) for text in texts]
    return any(form in values or form in texts or form == values for form in forms)


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
