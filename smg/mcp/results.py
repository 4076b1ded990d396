"""What a tool answered, to the text a model reads; and what a model wrote, to a tool's arguments.

Nothing is lost without a word: pictures, sounds and files are named, what is cut is marked.
Pure functions; nothing here waits.
"""

import json
from collections.abc import Mapping
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

from smg.items import ToolError
from smg.turn import ToolResult


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
    """A tool's answer as text; an answer that says it is an error is one."""
    text = truncate(_text(result), max_bytes)
    if result.is_error:
        kind = "mcp_tool_execution_error"
        return ToolResult(error=ToolError(kind=kind, message=text or "The tool failed"))
    return ToolResult(output=text)


def truncate(text: str, max_bytes: int) -> str:
    """At most so many bytes of UTF-8, cut between characters, and a mark if anything is missing."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    shown = encoded[:max_bytes].decode("utf-8", "ignore")
    return f"{shown}... [truncated: {len(shown.encode())} of {len(encoded)} bytes shown]"


def _text(result: CallToolResult) -> str:
    texts = [_block_text(block) for block in result.content]
    structured = result.structured_content
    if structured is not None and not _says(texts, structured):
        texts.append(json.dumps(structured, ensure_ascii=False))
    return "\n".join(texts)


def _block_text(block: ContentBlock) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent():
            return f"[image {block.mime_type}, {_size(block.data)} bytes]"
        case AudioContent():
            return f"[audio {block.mime_type}, {_size(block.data)} bytes]"
        case ResourceLink():
            return f"[resource {block.uri}, {block.title or block.name}]"
        case EmbeddedResource():
            return _resource_text(block.resource)


def _resource_text(resource: TextResourceContents | BlobResourceContents) -> str:
    if isinstance(resource, TextResourceContents):
        return resource.text
    kind = resource.mime_type or "application/octet-stream"
    return f"[resource {resource.uri}, {kind}, {_size(resource.blob)} bytes]"


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
