"""What a logged stream has shown so far, read off its frames."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smg.item_json import from_json
from smg.items import (
    CustomToolCall,
    FunctionCall,
    HostedCall,
    Item,
    McpCall,
    Message,
    Reasoning,
    Status,
    TextPart,
)


@dataclass(slots=True)
class Replayed:
    """The state of a stream's readers."""

    next_number: int = 0
    items: int = 0
    """How many items were shown, superseded ones included."""
    indexes: dict[str, int] = field(default_factory=dict)
    """Item ids to their places."""
    ready: set[str] = field(default_factory=set)
    """Calls whose arguments were shown to the end."""
    done: dict[str, tuple[int, Item]] = field(default_factory=dict)
    """Items that were shown to the end: ids to places, and how they were shown."""
    open_items: list[tuple[int, Item]] = field(default_factory=list)
    """Items that were begun and not ended, with what was shown of them."""


READY = ("_arguments.done", ".searching", ".interpreting")
"""How the types of those events end that show a call as about to run."""


def replayed(frames: Sequence[bytes]) -> Replayed:
    """Read the frames of one response's stream, from its first."""
    seen = Replayed(next_number=len(frames))
    texts: dict[int, list[str]] = {}
    begun: dict[int, dict[str, Any]] = {}
    for frame in frames:
        event = payload(frame)
        match event["type"]:
            case "response.output_item.added":
                index = event["output_index"]
                begun[index] = event["item"]
                texts[index] = []
                seen.indexes[event["item"]["id"]] = index
                seen.items = max(seen.items, index + 1)
            case "response.output_item.done":
                begun.pop(event["output_index"], None)
                seen.done[event["item"]["id"]] = (event["output_index"], from_json(event["item"]))
            case kind if kind.endswith(READY):
                seen.ready.add(event["item_id"])
            case kind if kind.endswith(".delta") and "output_index" in event:
                texts.setdefault(event["output_index"], []).append(event["delta"])
    seen.open_items = [
        (index, so_far(from_json(item), "".join(texts[index]))) for index, item in begun.items()
    ]
    return seen


def payload(frame: bytes) -> dict[str, Any]:
    """The JSON of a server-sent event."""
    fields = json.loads(frame.partition(b"\ndata: ")[2])
    assert isinstance(fields, dict)
    return fields


def so_far(item: Item, text: str) -> Item:
    """An item of which only this text was shown."""
    match item:
        case Message():
            return replace(item, parts=(TextPart(text),), status=Status.INCOMPLETE)
        case Reasoning():
            return replace(item, text=text, status=Status.INCOMPLETE)
        case FunctionCall() | McpCall() | HostedCall():
            return replace(item, arguments=text, status=Status.INCOMPLETE)
        case CustomToolCall():
            return replace(item, input=text, status=Status.INCOMPLETE)
        case _:
            return item
