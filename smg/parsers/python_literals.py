"""Python literals in text that arrives in pieces, read as JSON.

Takes what models write for values, which is a little more than Python allows: true, false, null,
leading zeros, newlines inside strings. Anything that would need evaluation is refused.
"""

import json
import re
from collections.abc import Callable

from smg.parsers.literals import Literals
from smg.parsers.tape import Steps, Tape

_MAX_DEPTH = 64
_WORD = re.compile(r"[\w.+-]*")
# Of any size, but not for ever.
_WORD_LIMIT = 5000
_WORDS = {
    "True": "true",
    "False": "false",
    "None": "null",
    "true": "true",
    "false": "false",
    "null": "null",
}
_INTEGER = re.compile(r"([+-]?)0*([0-9]+)")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "a": "\a",
    "0": "\0",
    "\\": "\\",
    "'": "'",
    '"': '"',
    "\n": "",
}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_HEX = re.compile(r"[0-9a-fA-F]*")
_CLOSERS = {"[": "]", "(": ")", "{": "}"}
_PREFIXES = Literals(["f'", 'f"', "r'", 'r"', "'", '"'])


def string_quote(tape: Tape) -> Steps[str | None]:
    """Read the opening quote of a string, if one comes next; what will close it.

    Raw strings are read like others: models write them by mistake.
    """
    found = yield from tape.accept_any(_PREFIXES)
    if found is None:
        return None
    quote = found[-1]
    return quote * 3 if (yield from tape.accept(quote * 2)) else quote


def read_string_body(tape: Tape, quote: str, sink: Callable[[str], None]) -> Steps[bool]:
    """Read a string up to and with its closing quote, giving its text away as it comes."""
    # An empty string looks like the first two of three quotes.
    stops = Literals([quote, "\\"])
    while (stop := (yield from tape.read_until(stops, sink))) == "\\":
        yield from _read_escape(tape, sink)
    return stop is not None


def _read_escape(tape: Tape, sink: Callable[[str], None]) -> Steps[None]:
    char = yield from tape.peek()
    if not char:
        return
    tape.take(tape.at + 1)
    if char not in _HEX_DIGITS:
        sink(_ESCAPES.get(char, f"\\{char}"))
        return
    digits = yield from tape.read_while(_HEX, _HEX_DIGITS[char])
    code = int(digits, 16) if digits else -1
    if len(digits) == _HEX_DIGITS[char] and code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF:
        sink(chr(code))
    else:
        sink(f"\\{char}{digits}")


def read_literal(tape: Tape, depth: int) -> Steps[str | None]:
    """Read a literal, which comes next, as JSON; None if it is none."""
    quote = yield from string_quote(tape)
    if quote is not None:
        pieces: list[str] = []
        closed = yield from read_string_body(tape, quote, pieces.append)
        return json.dumps("".join(pieces), ensure_ascii=False) if closed else None
    char = yield from tape.peek()
    if char in _CLOSERS and char:
        return (yield from _read_container(tape, char, depth))
    word = yield from tape.read_while(_WORD, _WORD_LIMIT)
    # Only what follows shows that a number is whole.
    whole = bool((yield from tape.peek()))
    return (_WORDS.get(word) or _number(word)) if whole else None


def _number(word: str) -> str | None:
    if _JSON_NUMBER.fullmatch(word):
        return word
    if (found := _INTEGER.fullmatch(word)) is not None:
        return ("-" if found[1] == "-" else "") + found[2]
    if _FLOAT.fullmatch(word) and abs(float(word)) < float("inf"):
        return json.dumps(float(word))
    return None


def _read_container(tape: Tape, opener: str, depth: int) -> Steps[str | None]:
    if depth == _MAX_DEPTH:
        return None
    tape.take(tape.at + 1)
    closer, keys, values, commas = _CLOSERS[opener], list[str](), list[str](), 0
    while (yield from tape.skip_space()) != closer:
        value = yield from read_literal(tape, depth + 1)
        char = yield from tape.skip_space()
        if value is not None and opener == "{" and char == ":" and len(keys) == len(values):
            keys.append(value if value.startswith('"') else json.dumps(value))
            tape.take(tape.at + 1)
            yield from tape.skip_space()
            value = yield from read_literal(tape, depth + 1)
            char = yield from tape.skip_space()
        if value is None or char not in {",", closer}:
            return None
        values.append(value)
        if char == ",":
            commas += 1
            tape.take(tape.at + 1)
    tape.take(tape.at + 1)
    return _written(opener, keys, values, commas)


def _written(opener: str, keys: list[str], values: list[str], commas: int) -> str | None:
    if opener == "{" and len(keys) == len(values):
        pairs = zip(keys, values, strict=True)
        return "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
    if opener == "(" and len(values) == 1 and not commas:
        return values[0]
    return "[" + ", ".join(values) + "]" if not keys else None
