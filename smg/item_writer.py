"""Items to the JSON of the Responses API.

`to_json` is what rows hold, `to_wire` what clients see: the same, less what only we need to go
on. Optional fields that are absent are left out, never null: strict clients reject nulls in items.
Standard library only.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

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
    TextPart,
    ToolError,
)

Json = dict[str, Any]

PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "mcp_list_tools": "mcpl",
    "mcp_call": "mcp",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcprsp",
    "compaction": "cmp",
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
}

HOSTED_TYPES = ("web_search_call", "file_search_call", "code_interpreter_call")

PRIVATE = "smg"  # The key under which rows keep what the API's form of an item has no place for.


def to_wire(item: Item) -> Json:
    """The item as clients see it."""
    fields = to_json(item)
    fields.pop(PRIVATE, None)
    return fields


def to_json(item: Item) -> Json:
    """The item as rows keep it; `item_reader.from_json` gives an equal item back."""
    return _WRITERS[type(item)](item)


def part_to_json(part: Part, role: str) -> Json:
    """One content part; text is `output_text` when the assistant said it."""
    match part:
        case TextPart(text, annotations, logprobs) if role == "assistant":
            return {
                "type": "output_text",
                "text": text,
                "annotations": list(annotations),
                "logprobs": [logprob_to_json(entry) for entry in logprobs],
            }
        case TextPart(text):
            return {"type": "input_text", "text": text}
        case RefusalPart(refusal):
            return {"type": "refusal", "refusal": refusal}
        case ImagePart():
            fields: Json = {"type": "input_image", "detail": part.detail}
            if part.image_url is not None:
                fields["image_url"] = part.image_url
            if part.file_id is not None:
                fields["file_id"] = part.file_id
            return fields
        case FilePart(fields=given):
            return {"type": "input_file", **given}


def logprob_to_json(entry: Logprob) -> Json:
    """A token's log-probability as both APIs write it."""
    return {
        **_bare_logprob(entry),
        "top_logprobs": [_bare_logprob(rival) for rival in entry.top],
    }


def _bare_logprob(entry: Logprob) -> Json:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.raw)}


def error_to_json(error: ToolError) -> Json:
    """A tool's failure, in the API's three forms."""
    if error.kind == "mcp_tool_execution_error":
        return {"type": error.kind, "content": [{"type": "text", "text": error.message}]}
    return {"type": error.kind, "code": error.code or 0, "message": error.message}


def tool_to_json(tool: McpTool) -> Json:
    """A listed tool."""
    fields: Json = {"name": tool.name, "input_schema": dict(tool.input_schema)}
    if tool.description is not None:
        fields["description"] = tool.description
    if tool.annotations is not None:
        fields["annotations"] = dict(tool.annotations)
    return fields


# ---- writing, one function a type


def _message(item: Message) -> Json:
    fields: Json = {
        "id": item.id,
        "type": "message",
        "status": item.status.value,
        "role": item.role,
        "content": [part_to_json(part, item.role) for part in item.parts],
    }
    if item.phase is not None:
        fields["phase"] = item.phase
    return fields


def _reasoning(item: Reasoning) -> Json:
    fields: Json = {
        "id": item.id,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text} for text in item.summary],
    }
    if item.text:
        fields["content"] = [{"type": "reasoning_text", "text": item.text}]
    if item.encrypted is not None:
        fields["encrypted_content"] = item.encrypted
    if item.status is not None:
        fields["status"] = item.status.value
    return fields


def _function_call(item: FunctionCall) -> Json:
    fields: Json = {
        "id": item.id,
        "type": "function_call",
        "call_id": item.call_id,
        "name": item.name,
        "arguments": item.arguments,
        "status": item.status.value,
    }
    if item.namespace is not None:
        fields["namespace"] = item.namespace
    return fields


def _call_output(item: FunctionCallOutput | CustomToolCallOutput) -> Json:
    kind = "function_call_output" if isinstance(item, FunctionCallOutput) else _CUSTOM_OUTPUT
    output = item.output
    fields: Json = {
        "id": item.id,
        "type": kind,
        "call_id": item.call_id,
        "output": output
        if isinstance(output, str)
        else [part_to_json(part, "user") for part in output],
    }
    if item.status is not None:
        fields["status"] = item.status.value
    return fields


_CUSTOM_OUTPUT = "custom_tool_call_output"


def _custom_tool_call(item: CustomToolCall) -> Json:
    fields: Json = {
        "id": item.id,
        "type": "custom_tool_call",
        "call_id": item.call_id,
        "name": item.name,
        "input": item.input,
    }
    if item.status is not None:
        fields["status"] = item.status.value
    if item.namespace is not None:
        fields["namespace"] = item.namespace
    return fields


def _mcp_list_tools(item: McpListTools) -> Json:
    fields: Json = {
        "id": item.id,
        "type": "mcp_list_tools",
        "server_label": item.server_label,
        "tools": [tool_to_json(tool) for tool in item.tools],
    }
    if item.error is not None:
        fields["error"] = item.error
    return fields


def _mcp_call(item: McpCall) -> Json:
    fields = {
        "id": item.id,
        "type": "mcp_call",
        "server_label": item.server_label,
        "name": item.name,
        "arguments": item.arguments,
        "output": item.output,
        "error": None if item.error is None else error_to_json(item.error),
        "status": item.status.value,
        "approval_request_id": item.approval_request_id,
    }
    # Not OpenAI's, so only there when there is something in it.
    return {**fields, "content": list(item.content)} if item.content else fields


def _approval_request(item: McpApprovalRequest) -> Json:
    return {
        "id": item.id,
        "type": "mcp_approval_request",
        "server_label": item.server_label,
        "name": item.name,
        "arguments": item.arguments,
    }


def _approval_response(item: McpApprovalResponse) -> Json:
    fields: Json = {
        "id": item.id,
        "type": "mcp_approval_response",
        "approval_request_id": item.approval_request_id,
        "approve": item.approve,
    }
    if item.reason is not None:
        fields["reason"] = item.reason
    return fields


def _compaction(item: Compaction) -> Json:
    fields: Json = {"id": item.id, "type": "compaction", "encrypted_content": item.encrypted}
    return {**fields, PRIVATE: {"open": True}} if item.is_open else fields


def _foreign(item: ForeignItem) -> Json:
    return {**item.fields, "id": item.id, "type": item.type}


def _hosted_call(item: HostedCall) -> Json:
    return {
        "id": item.id,
        "type": item.type,
        "status": item.status.value,
        **_HOSTED_FIELDS[item.type](_object(item.arguments), item),
        PRIVATE: {
            "server_label": item.server_label,
            "name": item.name,
            "arguments": item.arguments,
            "output": item.output,
            "error": None if item.error is None else error_to_json(item.error),
            "content": list(item.content),
        },
    }


def _object(text: str | None) -> Json:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}  # A call whose arguments are still being written, or a result that is prose.
    return value if isinstance(value, dict) else {}


def _web_search_fields(arguments: Json, item: HostedCall) -> Json:
    results = _object(item.output).get("results")
    urls = [
        r["url"] for r in results or () if isinstance(r, dict) and isinstance(r.get("url"), str)
    ]
    query = str(arguments.get("query") or "")
    action: Json = {"type": "search", "query": query, "queries": [query]}
    if urls:
        action["sources"] = [{"type": "url", "url": url} for url in urls]
    return {"action": action}


def _file_search_fields(arguments: Json, item: HostedCall) -> Json:
    results = _object(item.output).get("results")
    queries = arguments.get("queries") or [arguments.get("query") or ""]
    return {
        "queries": [str(query) for query in queries],
        "results": results if isinstance(results, list) else None,
    }


def _code_interpreter_fields(arguments: Json, item: HostedCall) -> Json:
    logs = [{"type": "logs", "logs": item.output}]
    return {
        "code": str(arguments.get("code") or ""),
        "container_id": str(arguments.get("container_id") or "mcp"),
        "outputs": None if item.output is None else [*logs, *_pictures(item.content)],
    }


def _pictures(content: Iterable[Block]) -> list[Json]:
    return [
        {"type": "image", "url": f"data:{block['mimeType']};base64,{block['data']}"}
        for block in content
        if block["type"] == "image"
    ]


_HOSTED_FIELDS: dict[str, Callable[[Json, HostedCall], Json]] = {
    "web_search_call": _web_search_fields,
    "file_search_call": _file_search_fields,
    "code_interpreter_call": _code_interpreter_fields,
}

_WRITERS: dict[type, Callable[[Any], Json]] = {
    Message: _message,
    Reasoning: _reasoning,
    FunctionCall: _function_call,
    FunctionCallOutput: _call_output,
    CustomToolCall: _custom_tool_call,
    CustomToolCallOutput: _call_output,
    McpListTools: _mcp_list_tools,
    McpCall: _mcp_call,
    McpApprovalRequest: _approval_request,
    McpApprovalResponse: _approval_response,
    HostedCall: _hosted_call,
    Compaction: _compaction,
    ForeignItem: _foreign,
}
