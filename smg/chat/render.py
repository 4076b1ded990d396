"""Events to chat completions: chunks of a stream, or the one whole object."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smg.chat.intake import ChatOrder
from smg.events import Event, ItemDelta, ItemStarted, Outcome, TurnFinished, Usage
from smg.item_writer import logprob_to_json
from smg.items import FunctionCall, Item, Logprob, Message, Reasoning, TextPart

Json = dict[str, Any]

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class ChunkRenderer:
    """One choice's part of a stream."""

    def __init__(self, order: ChatOrder, index: int) -> None:
        self._order = order
        self._index = index
        self._head = _chunk_head(order)
        self._tail = (',"usage":null}' if order.include_usage else "}") + "\n\n"
        self._deltas: dict[int, tuple[str, str]] = {}
        self._calls = 0

    def opening(self) -> bytes:
        """The chunk that names the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def render(self, event: Event) -> bytes:
        """The chunks of one event; empty when it has none."""
        match event:
            case ItemDelta(index, text, logprobs):
                before, after = self._deltas[index]
                shown = encode(_logprobs(logprobs)) if self._order.logprobs and logprobs else "null"
                return self._choice(f"{before}{encode(text)}{after}", shown)
            case ItemStarted(index, item):
                return self._started(index, item)
            case TurnFinished():
                return self._choice("{}", "null", f'"{finish_reason(event)}"')
            case _:
                return b""

    def _started(self, index: int, item: Item) -> bytes:
        match item:
            case Message():
                self._deltas[index] = ('{"content":', "}")
            case Reasoning():
                self._deltas[index] = ('{"reasoning_content":', "}")
            case FunctionCall():
                place = f'{{"tool_calls":[{{"index":{self._calls},"function":{{"arguments":'
                self._deltas[index] = (place, "}}]}")
                call = {
                    "index": self._calls,
                    "id": item.call_id,
                    "type": "function",
                    "function": {"name": item.name, "arguments": ""},
                }
                self._calls += 1
                return self._chunk({"tool_calls": [call]})
        return b""

    def _chunk(self, delta: Json) -> bytes:
        return self._choice(encode(delta), "null")

    def _choice(self, delta: str, logprobs: str, finish: str = "null") -> bytes:
        return (
            f'{self._head}[{{"index":{self._index},"delta":{delta},"logprobs":{logprobs},'
            f'"finish_reason":{finish}}}]{self._tail}'
        ).encode()


def _chunk_head(order: ChatOrder) -> str:
    fields = encode(
        {
            "id": order.turn.id,
            "object": "chat.completion.chunk",
            "created": order.turn.created_at,
            "model": order.turn.model,
        }
    )
    return f'data: {fields[:-1]},"choices":'


def usage_chunk(order: ChatOrder, usage: Usage) -> bytes:
    """The last chunk of a stream that was asked for its usage."""
    return f'{_chunk_head(order)}[],"usage":{encode(usage_json(usage))}}}\n\n'.encode()


def error_chunk(event: TurnFinished) -> bytes:
    """What a stream says when its turn failed; the SDKs raise it."""
    assert event.error is not None
    return f"data: {encode(event.error.envelope())}\n\n".encode()


def finish_reason(event: TurnFinished) -> str:
    """Why the generation ended, in chat's words."""
    if event.outcome is Outcome.INCOMPLETE:
        return "content_filter" if event.reason == "content_filter" else "length"
    called = any(isinstance(item, FunctionCall) for item in event.items)
    return "tool_calls" if called else "stop"


@dataclass(frozen=True, slots=True)
class Completion:
    """The whole object of one order, from the last events of its choices."""

    order: ChatOrder
    ends: Sequence[TurnFinished]

    def body(self) -> Json:
        """The chat.completion object."""
        return {
            "id": self.order.turn.id,
            "object": "chat.completion",
            "created": self.order.turn.created_at,
            "model": self.order.turn.model,
            "choices": [self._choice(n, event) for n, event in enumerate(self.ends)],
            "usage": usage_json(total(self.ends)),
            "service_tier": "default",
            "system_fingerprint": None,
        }

    def _choice(self, index: int, event: TurnFinished) -> Json:
        logprobs = None
        if self.order.logprobs:
            logprobs = _logprobs([entry for item in event.items for entry in _entries(item)])
        return {
            "index": index,
            "message": _message(event.items),
            "logprobs": logprobs,
            "finish_reason": finish_reason(event),
        }


def total(ends: Sequence[TurnFinished]) -> Usage:
    """The usage of all choices: the prompt, which they share, is counted once."""
    first = ends[0].usage
    return Usage(
        input_tokens=first.input_tokens,
        cached_tokens=first.cached_tokens,
        output_tokens=sum(end.usage.output_tokens for end in ends),
        reasoning_tokens=sum(end.usage.reasoning_tokens for end in ends),
    )


def _message(items: Sequence[Item]) -> Json:
    content = "".join(item.text for item in items if isinstance(item, Message))
    reasoning = "".join(item.text for item in items if isinstance(item, Reasoning))
    calls = [item for item in items if isinstance(item, FunctionCall)]
    message: Json = {"role": "assistant", "content": content, "refusal": None}
    if not content and (calls or reasoning):
        message["content"] = None
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return message


def _entries(item: Item) -> Sequence[Logprob]:
    if not isinstance(item, Message):
        return ()
    return [e for part in item.parts if isinstance(part, TextPart) for e in part.logprobs]


def _logprobs(entries: Sequence[Logprob]) -> Json:
    return {"content": [logprob_to_json(entry) for entry in entries], "refusal": None}


def usage_json(usage: Usage) -> Json:
    """Token counts in chat's words."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
