"""JSON to items: rows, and what clients send.

Explicit nulls, missing ids, the short message form and unknown fields are fine; what is wrong is
an InvalidRequest that names the field. Standard library only.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from smg.errors import InvalidRequest
from smg.item_writer import HOSTED_TYPES, PREFIXES, PRIVATE
from smg.items import (
    Block,
    Compaction,
    CustomToolCall,
    CustomToolCallOutput,
    FilePart,
    ForeignItem,
    FunctionCall,
    FunctionCallOutput,
    HostedCall,
    ImagePart,
    Item,
    Logprob,
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    McpListTools,
    McpTool,
    Message,
    Part,
    Reasoning,
    RefusalPart,
    Status,
    TextPart,
    ToolError,
)
from smg.json_reader import Reader
from smg.turn import NewId

FOREIGN_TYPES = frozenset(
    {
        *HOSTED_TYPES,
        "image_generation_call",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "tool_search_call",
        "tool_search_output",
        "computer_call",
        "computer_call_output",
        "program",
        "program_output",
        "configuration_update",
    }
)
"""Items of tools we do not run: kept and listed, not shown to the model."""


def from_json(fields: Mapping[str, Any], *, path: str = "item") -> Item:
    """Read an item that `to_json` wrote."""
    return read_item(Reader(fields, path), None)


def from_wire(fields: Mapping[str, Any], *, path: str, new_id: NewId) -> Item:
    """Read an item that a client sent; `path` names it in errors, `new_id` makes a missing id.

    Raises:
        InvalidRequest: a field is missing or of the wrong type, or the item type is not known.
    """
    public = {key: value for key, value in fields.items() if key != PRIVATE}
    return read_item(Reader(public, path), new_id)


def _status(reader: Reader) -> Status | None:
    """The item's status; what we do not know counts as absent."""
    value = reader.optional("status")
    return Status(value) if value in _STATUSES else None


_STATUSES = frozenset(status.value for status in Status)


def read_item(reader: Reader, new_id: NewId | None) -> Item:
    """Read one item from its reader; see `from_wire`."""
    kind = reader.optional("type")
    if kind is None and "role" in reader.fields:
        kind = "message"
    if kind is None:
        reader.text("type")
    item_id = reader.optional("id") or _fresh(reader, kind or "", new_id)
    if kind in _READERS:
        return _READERS[kind](reader, item_id)
    if kind in FOREIGN_TYPES:
        given = {k: v for k, v in reader.fields.items() if k not in ("id", "type")}
        return ForeignItem(id=item_id, type=str(kind), fields=given)
    raise InvalidRequest(
        f"Invalid '{reader.path}.type': unknown item type {kind!r}.",
        param=reader.path,
        code="invalid_value",
    )


def _fresh(reader: Reader, kind: str, new_id: NewId | None) -> str:
    if new_id is None:
        return reader.text("id")
    return new_id(PREFIXES.get(kind, "at"))


def read_parts(reader: Reader, key: str) -> tuple[Part, ...]:
    """Content: a string, or parts of any side (input_text in an assistant's message is fine)."""
    value = reader.fields.get(key)
    if isinstance(value, str):
        return (TextPart(value),)
    return tuple(_read_part(part) for part in reader.objects(key))


def _read_part(part: Reader) -> Part:
    match part.text("type"):
        case "input_text" | "output_text" | "text":
            return TextPart(
                part.text("text"),
                tuple(part.array("annotations")),
                tuple(_read_logprob(entry) for entry in part.objects("logprobs")),
            )
        case "refusal":
            return RefusalPart(part.text("refusal"))
        case "input_image":
            return ImagePart(
                part.optional("image_url"),
                part.optional("file_id"),
                part.optional("detail") or "auto",
            )
        case "input_file":
            return FilePart({k: v for k, v in part.fields.items() if k != "type" and v is not None})
        case kind:
            raise InvalidRequest(
                f"Invalid '{part.path}.type': unknown content type {kind!r}.",
                param=part.path,
                code="invalid_value",
            )


def _read_logprob(entry: Reader) -> Logprob:
    return Logprob(
        entry.text("token"),
        _logprob_value(entry),
        _token_bytes(entry),
        tuple(_read_logprob(rival) for rival in entry.objects("top_logprobs")),
    )


def _logprob_value(entry: Reader) -> float:
    value = entry.fields.get("logprob")
    try:
        if isinstance(value, int | float):
            return float(value)
    except OverflowError:
        pass  # An integer of hundreds of digits is no more a number than a word is.
    raise entry.error("logprob", "a number")


def _token_bytes(entry: Reader) -> bytes:
    try:
        return bytes(entry.array("bytes"))
    except (TypeError, ValueError):
        raise entry.error("bytes", "an array of numbers from 0 to 255") from None


ROLES = ("user", "assistant", "system", "developer")


def _read_message(reader: Reader, item_id: str) -> Message:
    role = reader.text("role")
    if role not in ROLES:
        raise reader.error("role", f"one of {', '.join(ROLES)}")
    return Message(
        id=item_id,
        role=role,
        parts=read_parts(reader, "content"),
        status=_status(reader) or Status.COMPLETED,
        phase=reader.optional("phase"),
    )


def _read_reasoning(reader: Reader, item_id: str) -> Reasoning:
    return Reasoning(
        id=item_id,
        text="".join(part.text("text") for part in reader.objects("content")),
        summary=tuple(part.text("text") for part in reader.objects("summary")),
        encrypted=reader.optional("encrypted_content"),
        status=_status(reader),
    )


def _read_function_call(reader: Reader, item_id: str) -> FunctionCall:
    return FunctionCall(
        id=item_id,
        call_id=reader.text("call_id"),
        name=reader.text("name"),
        arguments=reader.text("arguments"),
        status=_status(reader) or Status.COMPLETED,
        namespace=reader.optional("namespace"),
    )


def _read_output(reader: Reader) -> str | tuple[Part, ...]:
    value = reader.fields.get("output")
    if value is None:
        reader.text("output")
    return value if isinstance(value, str) else read_parts(reader, "output")


def _read_function_call_output(reader: Reader, item_id: str) -> FunctionCallOutput:
    return FunctionCallOutput(
        id=item_id,
        call_id=reader.text("call_id"),
        output=_read_output(reader),
        status=_status(reader),
    )


def _read_custom_tool_call(reader: Reader, item_id: str) -> CustomToolCall:
    return CustomToolCall(
        id=item_id,
        call_id=reader.text("call_id"),
        name=reader.text("name"),
        input=reader.text("input"),
        status=_status(reader),
        namespace=reader.optional("namespace"),
    )


def _read_custom_output(reader: Reader, item_id: str) -> CustomToolCallOutput:
    return CustomToolCallOutput(
        id=item_id,
        call_id=reader.text("call_id"),
        output=_read_output(reader),
        status=_status(reader),
    )


def _read_mcp_list_tools(reader: Reader, item_id: str) -> McpListTools:
    return McpListTools(
        id=item_id,
        server_label=reader.text("server_label"),
        tools=tuple(_read_tool(tool) for tool in reader.objects("tools")),
        error=_error_text(reader.fields.get("error")),
    )


def _error_text(error: Any) -> str | None:
    return error if error is None or isinstance(error, str) else json.dumps(error)


def _read_tool(tool: Reader) -> McpTool:
    schema, annotations = tool.fields.get("input_schema"), tool.fields.get("annotations")
    return McpTool(
        name=tool.text("name"),
        input_schema=schema if isinstance(schema, Mapping) else {},
        description=tool.optional("description"),
        annotations=annotations if isinstance(annotations, Mapping) else None,
    )


def _read_mcp_call(reader: Reader, item_id: str) -> McpCall:
    return McpCall(
        id=item_id,
        server_label=reader.text("server_label"),
        name=reader.text("name"),
        arguments=reader.text("arguments"),
        output=reader.optional("output"),
        error=_read_tool_error(reader.fields.get("error")),
        status=_status(reader) or Status.COMPLETED,
        approval_request_id=reader.optional("approval_request_id"),
        content=_read_blocks(reader),
    )


def _read_blocks(reader: Reader) -> tuple[Block, ...]:
    """What a tool answered beside text: each block says what it is, and its fields are text."""
    blocks = reader.objects("content")
    for block in blocks:
        if block.text("type") == "image":
            block.text("data")
            block.text("mimeType")
    return tuple(block.fields for block in blocks)


def _read_tool_error(error: Any) -> ToolError | None:
    if error is None:
        return None
    if not isinstance(error, Mapping):  # Older SDKs replay a plain string.
        return ToolError(kind="mcp_tool_execution_error", message=str(error))
    code = error.get("code")
    return ToolError(
        kind=str(error.get("type") or "mcp_protocol_error"),
        message=str(error.get("message") or _content_text(error.get("content"))),
        code=code if isinstance(code, int) and code else None,
    )


def _content_text(content: Any) -> str:
    blocks = content if isinstance(content, list) else ()
    return "".join(str(b.get("text", "")) for b in blocks if isinstance(b, Mapping))


def _read_approval_request(reader: Reader, item_id: str) -> McpApprovalRequest:
    return McpApprovalRequest(
        id=item_id,
        server_label=reader.text("server_label"),
        name=reader.text("name"),
        arguments=reader.text("arguments"),
    )


def _read_approval_response(reader: Reader, item_id: str) -> McpApprovalResponse:
    return McpApprovalResponse(
        id=item_id,
        approval_request_id=reader.text("approval_request_id"),
        approve=reader.flag("approve"),
        reason=reader.optional("reason"),
    )


def _read_compaction(reader: Reader, item_id: str) -> Compaction:
    is_open = reader.fields.get(PRIVATE) == {"open": True}
    return Compaction(id=item_id, encrypted=reader.text("encrypted_content"), is_open=is_open)


def _read_hosted(reader: Reader, item_id: str) -> Item:
    private = reader.fields.get(PRIVATE)
    kind = reader.text("type")
    if not isinstance(private, Mapping):
        given = {k: v for k, v in reader.fields.items() if k not in ("id", "type")}
        return ForeignItem(id=item_id, type=kind, fields=given)
    ours = Reader(private, reader.path)
    return HostedCall(
        id=item_id,
        type=kind,
        server_label=ours.text("server_label"),
        name=ours.text("name"),
        arguments=ours.text("arguments"),
        output=ours.optional("output"),
        error=_read_tool_error(private.get("error")),
        status=_status(reader) or Status.COMPLETED,
        content=_read_blocks(ours),
    )


_READERS: dict[str, Callable[[Reader, str], Item]] = {
    "message": _read_message,
    "reasoning": _read_reasoning,
    "function_call": _read_function_call,
    "function_call_output": _read_function_call_output,
    "custom_tool_call": _read_custom_tool_call,
    "custom_tool_call_output": _read_custom_output,
    "mcp_list_tools": _read_mcp_list_tools,
    "mcp_call": _read_mcp_call,
    "mcp_approval_request": _read_approval_request,
    "mcp_approval_response": _read_approval_response,
    "compaction": _read_compaction,
    **dict.fromkeys(HOSTED_TYPES, _read_hosted),
}
