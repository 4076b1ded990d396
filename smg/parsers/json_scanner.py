"""Finds the end of a JSON value that arrives in pieces, and checks it on the way.

Takes text, gives the position up to which it belongs to the value. Values are not built: what is
wanted is the text itself, as the model wrote it.
"""

import json
import re
from collections.abc import Callable

# Consumers decode arguments with recursive parsers.
MAX_DEPTH = 256

# A noncharacter: no text has it. Before a marker it says that this was a token, so that a marker
# ends a broken value, and the same text does not.
TOKEN_SIGN = "\ufdd0"

_SPACE = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(rf'[^"\\\x00-\x1f{TOKEN_SIGN}]*')
_DIGITS = frozenset("0123456789")
_HEX = frozenset("0123456789abcdefABCDEF")
# What may follow inside a number, and the state after it; states named for what was last read.
_NUMBER: dict[str, tuple[tuple[frozenset[str], str], ...]] = {
    "-": ((frozenset("0"), "0"), (_DIGITS, "int")),
    "0": ((frozenset("."), "."), (frozenset("eE"), "e")),
    "int": ((_DIGITS, "int"), (frozenset("."), "."), (frozenset("eE"), "e")),
    ".": ((_DIGITS, "fraction"),),
    "fraction": ((_DIGITS, "fraction"), (frozenset("eE"), "e")),
    "e": ((frozenset("+-"), "sign"), (_DIGITS, "exponent")),
    "sign": ((_DIGITS, "exponent"),),
    "exponent": ((_DIGITS, "exponent"),),
}
_NUMBER_MAY_END = frozenset({"0", "int", "fraction", "exponent"})
_LITERALS = {"t": "rue", "f": "alse", "n": "ull"}


class JsonScanner:
    """Reads one JSON value, cut anywhere.

    Unless strict it repairs what models get wrong inside strings: control characters that should
    have been escaped, and backslashes before characters that need none.
    """

    __slots__ = (
        "_closers",
        "_hex_left",
        "_in_key",
        "_literal",
        "_number",
        "_repairs",
        "_step",
        "_strict",
        "done",
        "failed",
    )

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._closers: list[str] = []
        self._step: Callable[[str, int], int] = self._value
        self._in_key = False
        self._hex_left = 0
        self._number = ""
        self._literal = ""
        self._repairs: list[tuple[int, str]] = []
        self.done = False
        self.failed = False

    def scan(self, text: str, at: int) -> tuple[int, str]:
        """Read on from `at`: the position after the value's last character so far, and its text.

        The text is the slice as it stands, but for repairs.
        """
        start = at
        self._repairs = []
        while at < len(text) and not (self.done or self.failed):
            at = self._step(text, at)
        if not self._repairs:
            return at, text[start:at]
        pieces = []
        for place, instead in self._repairs:
            pieces += [text[start:place], instead]
            # A needless backslash stays and is escaped: nothing of the text is replaced then.
            start = place if instead == "\\" else place + 1
        return at, "".join([*pieces, text[start:at]])

    def finish(self) -> bool:
        """Whether the value is complete when no more text comes."""
        if self._step == self._digits and not self._closers and self._number in _NUMBER_MAY_END:
            self.done = True
        return self.done

    def _fail(self, at: int) -> int:
        self.failed = True
        return at

    def _end_value(self) -> None:
        if self._closers:
            self._step = self._after
        else:
            self.done = True

    def _value(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at == len(text):
            return at
        char = text[at]
        if char in "{[":
            if len(self._closers) == MAX_DEPTH:
                return self._fail(at)
            self._closers.append("}" if char == "{" else "]")
            self._step = self._first_key if char == "{" else self._first_item
        elif char == '"':
            self._in_key = False
            self._step = self._string
        elif char in _LITERALS:
            self._literal = _LITERALS[char]
            self._step = self._word
        elif char == "-" or char in _DIGITS:
            self._number = char if char in "-0" else "int"
            self._step = self._digits
        else:
            return self._fail(at)
        return at + 1

    def _first_item(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at < len(text) and text[at] == "]":
            return self._close(at)
        if at < len(text):
            self._step = self._value
        return at

    def _first_key(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at < len(text) and text[at] == "}":
            return self._close(at)
        return self._key(text, at)

    def _key(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at == len(text):
            return at
        if text[at] != '"':
            return self._fail(at)
        self._in_key = True
        self._step = self._string
        return at + 1

    def _colon(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at == len(text):
            return at
        if text[at] != ":":
            return self._fail(at)
        self._step = self._value
        return at + 1

    def _after(self, text: str, at: int) -> int:
        at = _after_space(text, at)
        if at == len(text):
            return at
        if text[at] == self._closers[-1]:
            return self._close(at)
        if text[at] != ",":
            return self._fail(at)
        self._step = self._key if self._closers[-1] == "}" else self._value
        return at + 1

    def _close(self, at: int) -> int:
        self._closers.pop()
        self._end_value()
        return at + 1

    def _string(self, text: str, at: int) -> int:
        found = _PLAIN.match(text, at)
        at = found.end() if found else at
        if at == len(text):
            return at
        char = text[at]
        if char == '"' and self._in_key:
            self._step = self._colon
        elif char == '"':
            self._end_value()
        elif char == "\\":
            self._step = self._escape
        elif self._strict or char == TOKEN_SIGN:
            return self._fail(at)
        else:
            self._repairs.append((at, json.dumps(char)[1:-1]))
        return at + 1

    def _escape(self, text: str, at: int) -> int:
        char = text[at]
        self._step = self._string
        if char == "u":
            self._hex_left = 4
            self._step = self._hex
        elif char not in '"\\/bfnrt':
            if self._strict:
                return self._fail(at)
            self._repairs.append((at, "\\"))
            return at
        return at + 1

    def _hex(self, text: str, at: int) -> int:
        if text[at] not in _HEX:
            return self._fail(at)
        self._hex_left -= 1
        if not self._hex_left:
            self._step = self._string
        return at + 1

    def _word(self, text: str, at: int) -> int:
        if text[at] != self._literal[0]:
            return self._fail(at)
        self._literal = self._literal[1:]
        if not self._literal:
            self._end_value()
        return at + 1

    def _digits(self, text: str, at: int) -> int:
        for chars, state in _NUMBER[self._number]:
            if text[at] in chars:
                self._number = state
                return at + 1
        if self._number not in _NUMBER_MAY_END:
            return self._fail(at)
        self._end_value()
        return at


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
