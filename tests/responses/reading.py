"""A client of the tests' own: a Responses stream read by its deltas alone, trusting nothing."""

import json
from typing import Any, get_args

from openai.types.responses import Response, ResponseStreamEvent

from tests.golden.transcript import frames

Json = dict[str, Any]

_UNION = get_args(ResponseStreamEvent)[0]
EVENT_TYPES = {get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(_UNION)}
"""The official package's class for each type of event."""

ACCUMULATES = {
    "response.function_call_arguments": "arguments",
    "response.mcp_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
}
PARTS = {"response.output_text", "response.reasoning_text"}


def read(sent: str) -> list[Json]:
    """The events of a stream: framed as they must be, numbered without a gap, [DONE] at the end."""
    *events, done = frames(sent)
    assert done == "data: [DONE]"
    read = []
    for number, frame in enumerate(events):
        name, content = frame.split("\n")
        event = json.loads(content.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        read.append(event)
    return read


def validate(event: Json) -> None:
    """Check an event against the official package's own type, strictly."""
    EVENT_TYPES[event["type"]].model_validate(event, strict=True)


def validate_body(body: Json) -> None:
    Response.model_validate(body, strict=True)


class Fold:
    """The output as a client has it that only ever appends."""

    def __init__(self) -> None:
        self.items: list[Json] = []
        self.done: list[Json] = []

    def take(self, event: Json) -> None:
        kind = event["type"]
        match kind.rsplit(".", 1):
            case ["response.output_item", "added"]:
                assert event["output_index"] == len(self.items)
                self.items.append(event["item"])
            case ["response.output_item", "done"]:
                self._finish(event["output_index"], event["item"])
            case ["response.content_part", "added"]:
                content = self._item(event)["content"]
                assert event["content_index"] == len(content)
                content.append(event["part"])
            case ["response.content_part", "done"]:
                assert self._part(event) == event["part"]
            case [name, ("delta" | "done") as step] if name in PARTS:
                self._extend(self._part(event), "text", event, step)
            case [name, ("delta" | "done") as step] if name in ACCUMULATES:
                self._extend(self._item(event), ACCUMULATES[name], event, step)

    def _item(self, event: Json) -> Json:
        item = self.items[event["output_index"]]
        assert item["id"] == event["item_id"]
        return item

    def _part(self, event: Json) -> Json:
        part: Json = self._item(event)["content"][event["content_index"]]
        return part

    @staticmethod
    def _extend(target: Json, key: str, event: Json, step: str) -> None:
        if step == "done":
            assert target[key] == event[key]
            return
        target[key] += event["delta"]
        for entry in event.get("logprobs", ()):
            target["logprobs"].append(_with_bytes(entry))

    def _finish(self, index: int, item: Json) -> None:
        """Check that nothing is new in the finished item but what no delta can tell."""
        told = self.items[index]
        late = {"status", "output", "error", "tools"}
        for key, value in item.items():
            assert key in late or told[key] == value, key
        self.items[index] = item
        self.done.append(item)


def _with_bytes(entry: Json) -> Json:
    rivals = [{**rival, "bytes": _bytes(rival)} for rival in entry["top_logprobs"]]
    return {**entry, "bytes": _bytes(entry), "top_logprobs": rivals}


def _bytes(entry: Json) -> list[int]:
    return list(entry["token"].encode())
