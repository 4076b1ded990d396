"""Events to text completions: frames of a stream, or the one whole object."""

import codecs
import json
from collections.abc import Sequence
from typing import Any

from smg.completions.intake import TextOrder
from smg.events import Event, ItemDelta, Outcome, TurnFinished, Usage
from smg.items import Item, Logprob, Message, TextPart

Json = dict[str, Any]

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Places:
    """Where each token of one answer begins, in characters; a token may be part of one."""

    def __init__(self, start: int) -> None:
        self._next = start
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, raw: bytes) -> int:
        """The place of the next token."""
        place = self._next
        self._next += len(self._utf8.decode(raw))
        return place


class TextRenderer:
    """One answer's part of a stream."""

    def __init__(self, order: TextOrder, index: int) -> None:
        self._order = order
        self._index = index
        self._echo = order.starts[index // order.each].echo
        self._places = Places(len(self._echo))

    def opening(self) -> Sequence[bytes]:
        """The frame that repeats the prompt, if it is to be repeated."""
        return [self._frame(self._echo)] if self._echo else []

    def render(self, event: Event) -> bytes:
        """The frame of one event; empty when it has none."""
        match event:
            case ItemDelta(_, text, entries):
                logprobs = None
                if self._order.logprobs:
                    logprobs = logprobs_json(entries, self._places)
                return self._frame(text, logprobs)
            case TurnFinished(error=None):
                return self._frame("", finish=finish_reason(event))
            case TurnFinished(error=error):
                assert error is not None
                return f"data: {encode(error.envelope())}\n\n".encode()
            case _:
                return b""

    def _frame(self, text: str, logprobs: Json | None = None, finish: str | None = None) -> bytes:
        choice = _choice(self._index, text, logprobs, finish)
        fields = {**_head(self._order), "choices": [choice]}
        if self._order.include_usage:
            fields["usage"] = None
        return f"data: {encode(fields)}\n\n".encode()


def usage_frame(order: TextOrder, ends: Sequence[TurnFinished]) -> bytes:
    """The last frame of a stream that was asked for its usage."""
    fields = {**_head(order), "choices": [], "usage": usage_json(order, ends)}
    return f"data: {encode(fields)}\n\n".encode()


def completion(order: TextOrder, ends: Sequence[TurnFinished]) -> Json:
    """The whole object."""
    return {
        **_head(order),
        "choices": [_whole(order, index, end) for index, end in enumerate(ends)],
        "usage": usage_json(order, ends),
    }


def _whole(order: TextOrder, index: int, end: TurnFinished) -> Json:
    echo = order.starts[index // order.each].echo
    text = "".join(item.text for item in end.items if isinstance(item, Message))
    logprobs = None
    if order.logprobs:
        entries = [entry for item in end.items for entry in _entries(item)]
        logprobs = logprobs_json(entries, Places(len(echo)))
    return _choice(index, echo + text, logprobs, finish_reason(end))


def _entries(item: Item) -> Sequence[Logprob]:
    parts = item.parts if isinstance(item, Message) else ()
    return [entry for part in parts if isinstance(part, TextPart) for entry in part.logprobs]


def _head(order: TextOrder) -> Json:
    return {
        "id": order.turn.id,
        "object": "text_completion",
        "created": order.turn.created_at,
        "model": order.turn.model,
    }


def _choice(index: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def finish_reason(end: TurnFinished) -> str:
    """Why the text ends, in the words of this endpoint."""
    if end.outcome is not Outcome.INCOMPLETE:
        return "stop"
    return "content_filter" if end.reason == "content_filter" else "length"


def logprobs_json(entries: Sequence[Logprob], places: Places) -> Json:
    """Log-probabilities in this endpoint's form: four lists of one length."""
    return {
        "tokens": [_token(entry) for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [
            {_token(rival): rival.logprob for rival in (*entry.top, entry)} for entry in entries
        ],
        "text_offset": [places.take(entry.raw) for entry in entries],
    }


def _token(entry: Logprob) -> str:
    """The token's text; its bytes, spelled out, if it is only part of a character."""
    try:
        return entry.raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry.raw)


def usage_json(order: TextOrder, ends: Sequence[TurnFinished]) -> Json:
    """Token counts: each prompt once, each answer's output."""
    usages = [end.usage for end in ends]
    prompts = sum((usage for usage in usages[:: order.each]), Usage())
    written = sum(usage.output_tokens for usage in usages)
    return {
        "prompt_tokens": prompts.input_tokens,
        "completion_tokens": written,
        "total_tokens": prompts.input_tokens + written,
        "prompt_tokens_details": {"cached_tokens": prompts.cached_tokens},
    }
