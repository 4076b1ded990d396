"""The text under a parser: it arrives in pieces, and is read as if it were whole.

Readers are generators. They call the methods here with `yield from`; a method that needs more text
yields until there is some, so no reader ever sees where the text was cut. Knows no format.
"""

import re
from collections.abc import Callable, Generator
from typing import TypeVar

from smg.parsers.json_scanner import JsonScanner
from smg.parsers.literals import Literals

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A reader at work: it stops where it needs more text, and returns what it read."""

SPACE = " \t\r\n"
_SPACES = re.compile(r"[ \t\r\n]*")


class Tape:
    """Text not yet read, and what was read since the last decision.

    What was read stays in `log` until it is clear what it was, so that it can be given back.
    """

    __slots__ = ("at", "ended", "log", "text", "trial")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self.log: list[str] = []
        self.trial: list[str] | None = None
        """All text read since a trial began, if one is on."""

    def push(self, text: str) -> None:
        """Add text at the end."""
        self.text = self.text[self.at :] + text
        self.at = 0

    def take(self, end: int) -> str:
        """Read up to this position."""
        piece = self.text[self.at : end]
        self.at = end
        self.log.append(piece)
        if self.trial is not None:
            self.trial.append(piece)
        return piece

    def unread(self, literal: str) -> None:
        """Put back the literal that was just read, before anything else is done."""
        self.at -= len(literal)
        self.log.pop()
        if self.trial is not None:
            self.trial.pop()

    def give_back(self) -> str:
        """What was read since the last decision."""
        raw = "".join(self.log)
        self.log.clear()
        return raw

    def drop_rest(self) -> None:
        """Read all there is, and forget it."""
        self.take(len(self.text))
        self.log.clear()

    def peek(self) -> Steps[str]:
        """The next character, unread; empty at the end."""
        while self.at >= len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.at]

    def skip_space(self) -> Steps[str]:
        """Read white space; give the next character, unread."""
        while True:
            found = _SPACES.match(self.text, self.at)
            if found and found.end() > self.at:
                self.take(found.end())
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            yield

    def accept(self, literal: str) -> Steps[bool]:
        """Read this literal if it comes next."""
        while not self.text.startswith(literal, self.at):
            rest = self.text[self.at : self.at + len(literal)]
            if self.ended or not literal.startswith(rest):
                return False
            yield
        self.take(self.at + len(literal))
        return True

    def accept_any(self, literals: Literals) -> Steps[str | None]:
        """Read whichever of these comes next, if one does."""
        while (found := literals.match(self.text, self.at)) is None:
            if self.ended or not literals.may_begin(self.text, self.at):
                return None
            yield
        # Of "\n<x" and "<x" only one can stand here.
        self.take(self.at + len(found))
        return found

    def read_while(self, pattern: re.Pattern[str], limit: int) -> Steps[str]:
        """Read characters that fit a pattern of the form `[...]*`, at most `limit` of them."""
        pieces: list[str] = []
        left = limit
        while left:
            found = pattern.match(self.text, self.at, self.at + left)
            if found and found.end() > self.at:
                pieces.append(self.take(found.end()))
                left -= len(pieces[-1])
            if self.at < len(self.text) or self.ended:
                break
            yield
        return "".join(pieces)

    def read_until(self, literals: Literals, sink: Callable[[str], None]) -> Steps[str | None]:
        """Read up to and with one of these, giving the text before it away as it is certain.

        None if all text ends before; the beginning of a literal at its end is dropped then, since
        what was cut off is more likely markup than text.
        """
        while (found := literals.search(self.text, self.at)) is None:
            certain = literals.held_from(self.text, self.at)
            if certain > self.at:
                sink(self.take(certain))
            if self.ended:
                self.drop_rest()
                return None
            yield
        place, literal = found
        if place > self.at:
            sink(self.take(place))
        self.take(place + len(literal))
        return literal

    def read_short(self, literals: Literals, limit: int) -> Steps[tuple[str, str] | None]:
        """Read a text of at most `limit` characters and the literal after it.

        None, and nothing read, if there is no such literal near.
        """
        while (found := literals.search(self.text, self.at)) is None:
            if self.ended or literals.held_from(self.text, self.at) - self.at > limit:
                return None
            yield
        place, literal = found
        if place - self.at > limit:
            return None
        short = self.take(place)
        self.take(place + len(literal))
        return short, literal

    def read_json(self, sink: Callable[[str], None], scanner: JsonScanner) -> Steps[bool]:
        """Read a JSON value, giving its text away; whether it was complete and correct."""
        while True:
            end, clean = scanner.scan(self.text, self.at)
            if end > self.at:
                self.take(end)
                sink(clean)
            if scanner.done:
                return True
            if scanner.failed:
                return False
            if self.ended:
                return scanner.finish()
            yield
