"""Output that is the input of one custom tool, from the end of the reasoning to the last character.

For generations under the tool's own grammar, which leaves no room for a call's usual form. Text
in, parsed deltas out.
"""

import json

from smg.parsers.base import (
    OutputParser,
    ParsedDelta,
    Text,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)


class RawInputParser:
    """Makes what another parser takes for the answer the call of a tool."""

    __slots__ = ("_inner", "_name", "_started")

    def __init__(self, inner: OutputParser, name: str) -> None:
        self._inner = inner
        self._name = name
        self._started = False

    @property
    def reasoning(self) -> bool:
        """Whether the model is thinking at this point of the text."""
        return self._inner.reasoning

    def feed(self, text: str) -> list[ParsedDelta]:
        """Take more text; give what is certain."""
        return self._read(self._inner.feed(text))

    def feed_marker(self, marker: str) -> list[ParsedDelta]:
        """Take one special token, whole."""
        return self._read(self._inner.feed_marker(marker))

    def finish(self) -> list[ParsedDelta]:
        """The text is whole: end the call."""
        deltas = self._read(self._inner.finish())
        return [*deltas, *self._start(), ToolCallArguments('"}'), ToolCallEnd()]

    def _read(self, deltas: list[ParsedDelta]) -> list[ParsedDelta]:
        read: list[ParsedDelta] = []
        for delta in deltas:
            if isinstance(delta, Text):
                escaped = json.dumps(delta.text, ensure_ascii=False)[1:-1]
                read += [*self._start(), ToolCallArguments(escaped)]
            else:
                read.append(delta)
        return read

    def _start(self) -> list[ParsedDelta]:
        if self._started:
            return []
        self._started = True
        return [ToolCallStart(self._name), ToolCallArguments('{"input": "')]
