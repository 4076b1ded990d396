"""A stream of chat completion chunks to deltas: the rules by which servers are understood.

JSON objects come in, as they are decoded; chunks go out. Servers differ: reasoning has two names,
calls come without index, with one index for all, with their id repeated, or whole in one piece;
usage comes with the last choice, after it, or never. Knows no HTTP, and does not wait.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from smg.engines.base import Finish
from smg.errors import EngineError
from smg.events import Usage
from smg.items import Logprob
from smg.parsers.base import (
    ParsedDelta,
    ReasoningText,
    Text,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from smg.upstream.failures import stream_error
from smg.upstream.words import ChatChunk

Json = Mapping[str, Any]

FINISHES: Final[Mapping[str, Finish]] = {
    "length": Finish.LENGTH,
    "max_tokens": Finish.LENGTH,
    "content_filter": Finish.CONTENT_FILTER,
}
"""Reasons that say more than "it is complete", which all others do."""
GIVEN_UP: Final = frozenset({"abort", "error", "cancelled"})


class ChatReader:
    """Reads one stream. A chunk with a finish comes from `finish`, when the stream has ended."""

    def __init__(self, address: str, *, separate_reasoning: bool = True) -> None:
        self._address = address
        self._calls = CallReader()
        self._tags = not separate_reasoning
        self._in_tags = False
        self._finish: Finish | None = None
        self._usage: Usage | None = None
        self._pieces = 0

    def read(self, told: Json) -> ChatChunk | None:
        """What an object of the stream adds; `None` if nothing.

        Raises:
            EngineError: it tells of an error, or cannot be read.
        """
        if told.get("error"):
            raise stream_error(self._address, told["error"])
        try:
            deltas = self._read(told)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"Worker {self._address} sent a chunk that makes no sense: {error!r}"
            ) from error
        if not deltas:
            return None
        self._pieces += 1
        return ChatChunk(deltas=deltas)

    def finish(self) -> ChatChunk:
        """The last chunk: the stream has ended.

        Raises:
            EngineError: it has ended too early.
        """
        if self._finish is None:
            raise EngineError(f"Worker {self._address} ended the stream unfinished")
        deltas: list[ParsedDelta] = []
        self._close_tags(deltas)
        if self._finish is Finish.STOP:
            deltas += self._calls.end()
        # One piece is one token with nearly every server; it is the best there is to count.
        usage = self._usage or Usage(output_tokens=self._pieces)
        return ChatChunk(deltas=deltas, finish=self._finish, usage=usage)

    def _read(self, told: Json) -> list[ParsedDelta]:
        if told.get("usage"):
            self._usage = usage_of(told["usage"])
        choices = told.get("choices")
        if not choices:
            return []
        choice = choices[0]
        deltas: list[ParsedDelta] = []
        self._speak(deltas, choice.get("delta") or {}, choice.get("text"), choice.get("logprobs"))
        reason = choice.get("finish_reason")
        if reason in GIVEN_UP:
            raise EngineError(f"Worker {self._address} gave the generation up: {reason}")
        if reason:
            self._finish = FINISHES.get(reason, Finish.STOP)
        return deltas

    def _speak(
        self, deltas: list[ParsedDelta], delta: Json, text: str | None, logprobs: Json | None
    ) -> None:
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            self._think(deltas, thought)
        said = _text_of(delta.get("content")) or text or delta.get("refusal")
        if said:
            self._close_tags(deltas)
            deltas.append(Text(said, logprobs_of(logprobs)))
        if calls := delta.get("tool_calls"):
            self._close_tags(deltas)
            for call in calls:
                deltas += self._calls.read(call)

    def _think(self, deltas: list[ParsedDelta], thought: str) -> None:
        if not self._tags:
            deltas.append(ReasoningText(thought))
            return
        if not self._in_tags:
            self._in_tags = True
            deltas.append(Text("<think>\n"))
        deltas.append(Text(thought))

    def _close_tags(self, deltas: list[ParsedDelta]) -> None:
        if self._in_tags:
            self._in_tags = False
            deltas.append(Text("\n</think>\n\n"))


@dataclass(slots=True)
class _Call:
    id: str
    index: int | None
    has_arguments: bool = False


@dataclass(slots=True)
class CallReader:
    """Tells calls apart. They follow one another: a new one ends the one before it."""

    _current: _Call | None = None
    _ended: set[int] = field(default_factory=set)

    def read(self, part: Json) -> list[ParsedDelta]:
        """Take one entry of `tool_calls`.

        Raises:
            ValueError: it belongs to no call, or to one that has ended.
        """
        function = part.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments")
        call_id, index = part.get("id") or "", part.get("index")
        deltas: list[ParsedDelta] = []
        if self._is_new(call_id, index, name):
            deltas += self.end()
            self._current = _Call(call_id, index)
            deltas.append(ToolCallStart(name, call_id or None))
        elif self._current is None or index in self._ended:
            raise ValueError("arguments for no open call")
        text = arguments if isinstance(arguments, str) else _whole(arguments)
        if text:
            assert self._current is not None  # Opened above, or known to be open.
            self._current.has_arguments = True
            deltas.append(ToolCallArguments(text))
        return deltas

    def end(self) -> list[ParsedDelta]:
        """End the open call, if there is one; the deltas that this takes."""
        current, self._current = self._current, None
        if current is None:
            return []
        if current.index is not None:
            self._ended.add(current.index)
        end: list[ParsedDelta] = [ToolCallEnd()]
        return end if current.has_arguments else [ToolCallArguments("{}"), *end]

    def _is_new(self, call_id: str, index: int | None, name: str) -> bool:
        if not name:
            return False
        current = self._current
        if current is None:
            return True
        if call_id:
            # Its id counts more than its index: some give all calls the index 0.
            return call_id != current.id
        return index is None or index != current.index


def _whole(arguments: Any) -> str:
    """Arguments that are no text: servers of the Ollama kind send the object itself."""
    return "" if arguments is None else json.dumps(arguments, ensure_ascii=False)


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""


def usage_of(told: Json) -> Usage:
    """Token counts as chat completions tell them."""
    prompt = told.get("prompt_tokens_details") or {}
    completion = told.get("completion_tokens_details") or {}
    return Usage(
        input_tokens=int(told.get("prompt_tokens") or 0),
        cached_tokens=int(prompt.get("cached_tokens") or 0),
        output_tokens=int(told.get("completion_tokens") or 0),
        reasoning_tokens=int(completion.get("reasoning_tokens") or 0),
    )


def logprobs_of(told: Json | None) -> tuple[Logprob, ...]:
    """The log-probabilities of a choice, in the form of chat or of text completions."""
    if told and told.get("tokens"):
        return tuple(_text_logprobs(told))
    return tuple(_logprob(entry) for entry in (told or {}).get("content") or ())


def _text_logprobs(told: Json) -> Iterator[Logprob]:
    rivals = told.get("top_logprobs") or [None] * len(told["tokens"])
    for token, value, top in zip(told["tokens"], told["token_logprobs"], rivals, strict=True):
        best = tuple(Logprob(str(t), float(v), str(t).encode()) for t, v in (top or {}).items())
        yield Logprob(str(token), float(value), str(token).encode(), best)


def _logprob(entry: Json) -> Logprob:
    token = str(entry["token"])
    raw = entry.get("bytes")
    return Logprob(
        token,
        float(entry["logprob"]),
        token.encode() if raw is None else bytes(raw),
        tuple(_logprob(rival) for rival in entry.get("top_logprobs") or ()),
    )
