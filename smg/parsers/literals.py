"""Sets of literal markers: where the next one is, and how much of a text's end may become one.

Takes strings and positions in a text; knows nothing of what the markers mean.
"""

import re
from collections.abc import Iterable


class Literals:
    """Markers that may come next.

    No marker may begin another, or hold another before its own end: what is found would then
    depend on where the text was cut. Such a set is refused.
    """

    __slots__ = ("_longest", "_pattern", "literals", "starts")

    def __init__(self, literals: Iterable[str]) -> None:
        self.literals = tuple(dict.fromkeys(literals))
        for one in self.literals:
            for other in self.literals:
                if one != other and (at := other.find(one)) >= 0 and at + len(one) < len(other):
                    raise ValueError(f"Marker {one!r} is complete inside {other!r}")
        self.starts = frozenset(literal[0] for literal in self.literals)
        self._longest = max(map(len, self.literals), default=1)
        escaped = "|".join(map(re.escape, self.literals))
        self._pattern = re.compile(escaped or r"(?!)")

    def search(self, text: str, at: int) -> tuple[int, str] | None:
        """Find the first marker at or after `at`: its place and itself."""
        found = self._pattern.search(text, at)
        return (found.start(), found[0]) if found else None

    def match(self, text: str, at: int) -> str | None:
        """Tell which marker stands at `at`."""
        found = self._pattern.match(text, at)
        return found[0] if found else None

    def may_begin(self, text: str, at: int) -> bool:
        """Whether the text from `at` on is a proper beginning of a marker."""
        rest = text[at : at + self._longest]
        return any(len(rest) < len(one) and one.startswith(rest) for one in self.literals)

    def held_from(self, text: str, at: int) -> int:
        """Where the longest end of the text begins that may yet become a marker."""
        for start in range(max(at, len(text) - self._longest + 1), len(text)):
            if text[start] in self.starts and self.may_begin(text, start):
                return start
        return len(text)
