"""Events to server-sent events of the Responses API, one frame an event, numbered from 0.

The order within each kind of item is the one official clients insist on. Deltas are the hot path:
a prepared head with the text spliced in; everything else is rare and built plainly.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smg.events import (
    CallReady,
    Event,
    ItemDelta,
    ItemFinished,
    ItemStarted,
    Outcome,
    TurnFinished,
)
from smg.item_json import to_wire
from smg.item_writer import logprob_to_json
from smg.items import (
    CustomToolCall,
    FunctionCall,
    HostedCall,
    Item,
    McpCall,
    McpListTools,
    Message,
    Reasoning,
    Status,
    TextPart,
)
from smg.responses.body import Head

Json = dict[str, Any]
Frame = tuple[str, Json]  # An event's type and its fields, before numbering.

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def frame(kind: str, number: int, fields: Json) -> bytes:
    """One event as bytes."""
    payload = encode({"type": kind, "sequence_number": number, **fields})
    return f"event: {kind}\ndata: {payload}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Kind:
    """How items of one type are streamed."""

    delta: str
    """The type of delta events; empty where deltas are not shown."""
    where: Callable[[int, Item], Json]
    opening: Callable[[Item], Iterator[Frame]]
    """Events after output_item.added, less their `where`."""
    ready: Callable[[Any], Iterator[Frame]]
    closing: Callable[[Any], Iterator[Frame]]
    """Events before output_item.done, less their `where`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a stream goes on that another process began."""

    number: int = 0
    """The next sequence number."""
    indexes: Mapping[int, int] = field(default_factory=dict)
    """Where items that are in the output already were shown."""
    shift: int = 0
    """How many items the stream has shown that are not in the output: they were superseded."""


class Renderer:
    """One response's stream. Call `opening` once, then `render` for each event."""

    QUEUED = ("response.created", "response.queued")
    """What is told of a response that waits."""

    def __init__(self, head: Head, now: Callable[[], int], place: "Place | None" = None) -> None:
        """`place`: where an earlier process left the stream."""
        place = place or Place()
        self._head = head
        self._now = now
        self.number = place.number
        """The next sequence number."""
        self._indexes = dict(place.indexes)
        self._shift = place.shift
        self._delta_heads: dict[int, tuple[str, bool]] = {}

    def queued(self) -> list[bytes]:
        """created, queued; `opening` gives the rest."""
        waiting = {"response": self._head.body("queued")}
        return [self._frame(kind, waiting) for kind in self.QUEUED]

    def opening(self, *, queued: bool = False) -> list[bytes]:
        """created, [queued], in_progress; less what `queued` has given."""
        running = {"response": self._head.body("in_progress")}
        frames: list[bytes] = []
        if not self.number:
            frames = self.queued() if queued else [self._frame("response.created", running)]
        return [*frames, self._frame("response.in_progress", running)]

    def _place(self, index: int) -> int:
        """Where the stream shows the item of this index in the output."""
        if not self._shift and not self._indexes:
            return index
        return self._indexes.get(index, index + self._shift)

    def render(self, event: Event) -> list[bytes]:
        """The frames of one event."""
        match event:
            case ItemDelta():
                return self._delta(event)
            case ItemStarted(index, item):
                return self._started(index, item)
            case CallReady(index, item):
                kind = KINDS[type(item)]
                return self._frames(kind, self._place(index), item, kind.ready(item))
            case ItemFinished(index, item):
                return self._finished(index, item)
            case TurnFinished():
                return self._ended(event)

    def _frame(self, kind: str, fields: Json) -> bytes:
        made = frame(kind, self.number, fields)
        self.number += 1
        return made

    def _frames(self, kind: Kind, index: int, item: Item, frames: Iterator[Frame]) -> list[bytes]:
        where = kind.where(index, item)
        return [self._frame(name, {**where, **fields}) for name, fields in frames]

    def _delta(self, event: ItemDelta) -> list[bytes]:
        head, with_logprobs = self._delta_heads[event.index]
        if not head:
            return []
        logprobs = ',"logprobs":[]' if with_logprobs else ""
        if with_logprobs and event.logprobs:
            entries = [_delta_logprob(logprob_to_json(entry)) for entry in event.logprobs]
            logprobs = f',"logprobs":{encode(entries)}'
        text = encode(event.text)
        made = f'{head}{self.number}{logprobs},"delta":{text}}}\n\n'.encode()
        self.number += 1
        return [made]

    def _started(self, index: int, item: Item) -> list[bytes]:
        kind = KINDS.get(type(item), PLAIN)
        head = _delta_head(kind, self._place(index), item)
        self._delta_heads[index] = (head, isinstance(item, Message))
        index = self._place(index)
        added = self._frame(
            "response.output_item.added", {"output_index": index, "item": _started_item(item)}
        )
        return [added, *self._frames(kind, index, item, kind.opening(item))]

    def _finished(self, index: int, item: Item) -> list[bytes]:
        self._delta_heads.pop(index, None)
        return self.close_at(self._place(index), item)

    def close_at(self, place: int, item: Item) -> list[bytes]:
        """The frames that end an item which the stream shows at this place."""
        kind = KINDS.get(type(item), PLAIN)
        frames = self._frames(kind, place, item, kind.closing(item))
        done = {"output_index": place, "item": to_wire(item)}
        return [*frames, self._frame("response.output_item.done", done)]

    def _ended(self, event: TurnFinished) -> list[bytes]:
        if event.outcome is Outcome.CANCELLED:
            return []  # No client knows a terminal event for it: the stream just ends.
        body = final_body(self._head, event, self._now())
        return [self._frame(f"response.{event.outcome}", {"response": body})]


def final_body(head: Head, event: TurnFinished, now: int) -> Json:
    """The response as it will stay."""
    return head.body(
        event.outcome,
        output=event.items,
        usage=event.usage,
        error=event.error,
        reason=event.reason,
        completed_at=now if event.outcome is Outcome.COMPLETED else None,
    )


def _delta_logprob(entry: Json) -> Json:
    return {
        "token": entry["token"],
        "logprob": entry["logprob"],
        "top_logprobs": [
            {"token": rival["token"], "logprob": rival["logprob"]}
            for rival in entry["top_logprobs"]
        ],
    }


def _delta_head(kind: Kind, index: int, item: Item) -> str:
    """The bytes of a delta event up to its number."""
    if not kind.delta:
        return ""
    fields = encode({"type": kind.delta, **kind.where(index, item)})
    return f'event: {kind.delta}\ndata: {fields[:-1]},"sequence_number":'


def _started_item(item: Item) -> Json:
    """The item as `added` shows it: its accumulators empty, everything else in place."""
    match item:
        case Reasoning():
            return {**to_wire(item), "content": []}
        case FunctionCall() | CustomToolCall() | McpCall():
            return to_wire(replace(item, status=Status.IN_PROGRESS))
        case _:
            return to_wire(item)


# ---- kinds of items


def _part(index: int, item: Item) -> Json:
    return {"item_id": item.id, "output_index": index, "content_index": 0}


def _whole(index: int, item: Item) -> Json:
    return {"item_id": item.id, "output_index": index}


def _nothing(_item: Item) -> Iterator[Frame]:
    yield from ()


EMPTY_TEXT = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
EMPTY_THOUGHT = {"type": "reasoning_text", "text": ""}


def _open_message(_item: Item) -> Iterator[Frame]:
    yield "response.content_part.added", {"part": EMPTY_TEXT}


def _close_message(item: Message) -> Iterator[Frame]:
    part = to_wire(item)["content"][0]
    logprobs = _message_logprobs(item.parts)
    yield "response.output_text.done", {"text": item.text, "logprobs": logprobs}
    yield "response.content_part.done", {"part": part}


def _message_logprobs(parts: Sequence[Any]) -> list[Json]:
    return [
        _delta_logprob(logprob_to_json(entry))
        for part in parts
        if isinstance(part, TextPart)
        for entry in part.logprobs
    ]


def _open_reasoning(_item: Item) -> Iterator[Frame]:
    yield "response.content_part.added", {"part": EMPTY_THOUGHT}


def _close_reasoning(item: Reasoning) -> Iterator[Frame]:
    yield "response.reasoning_text.done", {"text": item.text}
    yield "response.content_part.done", {"part": {"type": "reasoning_text", "text": item.text}}


def _close_function_call(item: FunctionCall) -> Iterator[Frame]:
    done = {"name": item.name, "arguments": item.arguments}
    yield "response.function_call_arguments.done", done


def _close_custom_call(item: CustomToolCall) -> Iterator[Frame]:
    yield "response.custom_tool_call_input.done", {"input": item.input}


def _open_list(_item: Item) -> Iterator[Frame]:
    yield "response.mcp_list_tools.in_progress", {}


def _close_list(item: McpListTools) -> Iterator[Frame]:
    outcome = "completed" if item.error is None else "failed"
    yield f"response.mcp_list_tools.{outcome}", {}


def _open_mcp_call(_item: Item) -> Iterator[Frame]:
    yield "response.mcp_call.in_progress", {}


def _ready_mcp_call(item: McpCall) -> Iterator[Frame]:
    yield "response.mcp_call_arguments.done", {"arguments": item.arguments}


def _close_mcp_call(item: McpCall) -> Iterator[Frame]:
    if item.status is not Status.INCOMPLETE:  # An incomplete one was never run.
        outcome = "completed" if item.error is None else "failed"
        yield f"response.mcp_call.{outcome}", {}


_HOSTED_VERBS = {
    "web_search_call": "searching",
    "file_search_call": "searching",
    "code_interpreter_call": "interpreting",
}


def _open_hosted_call(item: Item) -> Iterator[Frame]:
    assert isinstance(item, HostedCall)
    yield f"response.{item.type}.in_progress", {}


def _ready_hosted_call(item: HostedCall) -> Iterator[Frame]:
    if item.type == "code_interpreter_call":
        code = to_wire(item)["code"]
        yield "response.code_interpreter_call_code.delta", {"delta": code}
        yield "response.code_interpreter_call_code.done", {"code": code}
    yield f"response.{item.type}.{_HOSTED_VERBS[item.type]}", {}


def _close_hosted_call(item: HostedCall) -> Iterator[Frame]:
    if item.status is not Status.INCOMPLETE:
        yield f"response.{item.type}.completed", {}


PLAIN = Kind("", _whole, _nothing, _nothing, _nothing)
"""Items that are there at once: approval requests, compactions."""

KINDS: dict[type, Kind] = {
    Message: Kind("response.output_text.delta", _part, _open_message, _nothing, _close_message),
    Reasoning: Kind(
        "response.reasoning_text.delta", _part, _open_reasoning, _nothing, _close_reasoning
    ),
    FunctionCall: Kind(
        "response.function_call_arguments.delta", _whole, _nothing, _nothing, _close_function_call
    ),
    CustomToolCall: Kind(
        "response.custom_tool_call_input.delta", _whole, _nothing, _nothing, _close_custom_call
    ),
    McpListTools: Kind("", _whole, _open_list, _nothing, _close_list),
    McpCall: Kind(
        "response.mcp_call_arguments.delta",
        _whole,
        _open_mcp_call,
        _ready_mcp_call,
        _close_mcp_call,
    ),
    HostedCall: Kind("", _whole, _open_hosted_call, _ready_hosted_call, _close_hosted_call),
}
