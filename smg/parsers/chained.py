"""Two parsers in a row: what the first takes for the answer, the second reads.

For the pairs that one machine cannot compose because a format has its own parser.
"""

from smg.parsers.base import OutputParser, ParsedDelta, Text


class ChainedParser:
    """Reads with the outer parser, and its answer with the inner one."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, outer: OutputParser, inner: OutputParser) -> None:
        self._outer = outer
        self._inner = inner

    @property
    def reasoning(self) -> bool:
        """Whether the model is thinking at this point of the text."""
        return self._outer.reasoning or self._inner.reasoning

    def feed(self, text: str) -> list[ParsedDelta]:
        """Take more text; give what is certain."""
        return self._read(self._outer.feed(text))

    def feed_marker(self, marker: str) -> list[ParsedDelta]:
        """Take one special token, whole."""
        outer = self._outer.feed_marker(marker)
        if outer == [Text(marker)]:
            return self._inner.feed_marker(marker)
        return self._read(outer)

    def finish(self) -> list[ParsedDelta]:
        """Give up what is still held back: no more is coming."""
        return [*self._read(self._outer.finish()), *self._inner.finish()]

    def _read(self, deltas: list[ParsedDelta]) -> list[ParsedDelta]:
        read: list[ParsedDelta] = []
        for delta in deltas:
            read += self._inner.feed(delta.text) if isinstance(delta, Text) else [delta]
        return read
