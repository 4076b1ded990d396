"""Chat messages to items: the form in which prompts are built from any conversation."""

from collections.abc import Mapping, Sequence
from typing import Any

from smg.errors import InvalidRequest
from smg.items import (
    FilePart,
    FunctionCall,
    FunctionCallOutput,
    ImagePart,
    Item,
    Message,
    Part,
    Reasoning,
    RefusalPart,
    TextPart,
)
from smg.json_reader import Reader
from smg.turn import NewId

ROLES = ("system", "developer", "user", "assistant", "tool")


def read_messages(given: Sequence[Mapping[str, Any]], new_id: NewId) -> tuple[Item, ...]:
    """Read the `messages` array.

    Raises:
        InvalidRequest: a message is ill-formed, or a tool message answers no call.
    """
    items: list[Item] = []
    calls: set[str] = set()
    for n, fields in enumerate(given):
        message = Reader(fields, f"messages[{n}]")
        match message.text("role"):
            case "assistant":
                said = _assistant(message, new_id)
                calls |= {item.call_id for item in said if isinstance(item, FunctionCall)}
                items += said
            case "tool":
                items.append(_tool(message, calls, new_id))
            case "system" | "developer" | "user" as role:
                parts = _content(message)
                items.append(Message(id=new_id("msg"), role=role, parts=parts))
            case role:
                raise InvalidRequest(
                    f"Invalid '{message.path}.role': {role!r}; known are {', '.join(ROLES)}.",
                    param=f"{message.path}.role",
                    code="invalid_value",
                )
    return tuple(items)


def _assistant(message: Reader, new_id: NewId) -> list[Item]:
    items: list[Item] = []
    reasoning = message.optional("reasoning_content") or message.optional("reasoning")
    if reasoning:
        items.append(Reasoning(id=new_id("rs"), text=reasoning))
    parts = _content(message)
    if refusal := message.optional("refusal"):
        parts = (*parts, RefusalPart(refusal))
    calls = message.objects("tool_calls")
    # An empty content beside calls is the usual way to write none.
    if any(not isinstance(part, TextPart) or part.text for part in parts) or not calls:
        items.append(Message(id=new_id("msg"), role="assistant", parts=parts))
    items += [_call(call, new_id) for call in calls]
    return items


def _call(call: Reader, new_id: NewId) -> FunctionCall:
    function = call.fields.get("function")
    if not isinstance(function, Mapping):
        raise call.error("function", "an object")
    inner = Reader(function, f"{call.path}.function")
    return FunctionCall(
        id=new_id("fc"),
        call_id=call.text("id"),
        name=inner.text("name"),
        arguments=inner.text("arguments"),
    )


def _tool(message: Reader, calls: set[str], new_id: NewId) -> FunctionCallOutput:
    call_id = message.text("tool_call_id")
    if call_id not in calls:
        raise InvalidRequest(
            f"Invalid '{message.path}.tool_call_id': no earlier message calls {call_id!r}.",
            param=f"{message.path}.tool_call_id",
        )
    text = "".join(part.text for part in _content(message) if isinstance(part, TextPart))
    return FunctionCallOutput(id=new_id("fco"), call_id=call_id, output=text)


def _content(message: Reader) -> tuple[Part, ...]:
    content = message.fields.get("content")
    if content is None:
        return ()
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(_part(part) for part in message.objects("content"))


def _part(part: Reader) -> Part:
    match part.text("type"):
        case "text":
            return TextPart(part.text("text"))
        case "refusal":
            return RefusalPart(part.text("refusal"))
        case "image_url":
            image = part.fields.get("image_url")
            if not isinstance(image, Mapping):
                raise part.error("image_url", "an object")
            inner = Reader(image, f"{part.path}.image_url")
            return ImagePart(inner.text("url"), None, inner.optional("detail") or "auto")
        case "file" | "input_audio":
            return FilePart({k: v for k, v in part.fields.items() if k != "type"})
        case kind:
            raise InvalidRequest(
                f"Invalid '{part.path}.type': unknown content type {kind!r}.",
                param=f"{part.path}.type",
                code="invalid_value",
            )
