"""Stop strings in text that comes in pieces.

Text in as it is decoded; out what cannot be the beginning of a stop string. Knows no token.
"""

import re
from collections.abc import Sequence


class StopStrings:
    """Lets text through until a stop string is complete, holding back what may become one.

    The stop string that is complete first ends the text, wherever the text was cut into pieces;
    of two that are complete at once, the longer.
    """

    __slots__ = ("_first", "_held", "_include", "_longest", "_stops", "matched")

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """`include` keeps the stop string itself at the end of the text."""
        self._stops = tuple(stop for stop in stops if stop)
        firsts = "".join(re.escape(stop[0]) for stop in self._stops)
        self._first = re.compile(f"[{firsts}]" if firsts else "(?!)")
        self._longest = max(map(len, self._stops), default=0)
        self._include = include
        self._held = ""
        self.matched: str | None = None
        """The stop string that ended the text."""

    def feed(self, text: str) -> str:
        """The text that is safe to show. After a match there is none."""
        if self.matched is not None:
            return ""
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, start, self.matched = min(found)
            self._held = ""
            return text[: end if self._include else start]
        safe = len(text) - self._may_begin(text)
        self._held = text[safe:]
        return text[:safe]

    def finish(self) -> str:
        """Give up what is held back: no more is coming."""
        held, self._held = self._held, ""
        return held

    def _may_begin(self, text: str) -> int:
        """How many last characters could be the beginning of a stop string."""
        # Nearly always the search finds nothing: no first character of any stop string.
        for first in self._first.finditer(text, max(0, len(text) - self._longest + 1)):
            end = text[first.start() :]
            if any(stop.startswith(end) for stop in self._stops):
                return len(end)
        return 0
