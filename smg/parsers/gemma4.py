"""Gemma 4: a name and arguments in a notation of its own, strings between marker quotes.

    <|tool_call>call:lookup_tide{station:<|"|>Oban<|"|>,days:2}<tool_call|>

What is no string, number, word or collection is taken as a string up to the next comma.
"""

import json
import re
from collections.abc import Callable

from smg.parsers.argument_writer import ArgumentWriter
from smg.parsers.coerce import quoted
from smg.parsers.literals import Literals
from smg.parsers.markup import json_or_text
from smg.parsers.reading import Reading
from smg.parsers.tagged import ReasoningTags, ToolSyntax
from smg.parsers.tape import Steps, Tape

_QUOTE = '<|"|>'
_QUOTES = Literals([_QUOTE])
_END = "<tool_call|>"
_NAME = re.compile(r"[\w.-]*")
_BARE = re.compile(r"[^,\[\]{}<>\n]*")
_KEY = re.compile(r"[^:,\[\]{}<>\n]*")
_LIMIT = 5000
_MAX_DEPTH = 64


def _read(reading: Reading, _: str) -> Steps[None]:
    tape = reading.tape
    yield from tape.skip_space()
    if not (yield from tape.accept("call:")):
        return
    name = yield from tape.read_while(_NAME, 256)
    if not name or not (yield from tape.accept("{")):
        return
    reading.start(name)
    arguments = ArgumentWriter(reading, name)
    while (yield from tape.skip_space()) != "}":
        if not (yield from _read_argument(tape, arguments)):
            return
        if (yield from tape.skip_space()) == ",":
            tape.take(tape.at + 1)
    tape.take(tape.at + 1)
    arguments.end()
    yield from tape.skip_space()
    if (yield from tape.accept(_END)):
        reading.boundary()


def _read_argument(tape: Tape, arguments: ArgumentWriter) -> Steps[bool]:
    key = yield from _read_key(tape)
    if key is None:
        return False
    if (yield from tape.accept(_QUOTE)):

        def read(sink: Callable[[str], None]) -> Steps[bool]:
            return (yield from tape.read_until(_QUOTES, sink)) is not None

        return (yield from arguments.string(key, read))
    value = yield from _read_value(tape, 0)
    if value is None:
        return False
    arguments.written(key, value)
    return True


def _read_key(tape: Tape) -> Steps[str | None]:
    """Read a key and the colon after it."""
    if (yield from tape.accept(_QUOTE)):
        pieces: list[str] = []
        yield from tape.read_until(_QUOTES, pieces.append)
        key = "".join(pieces)
    else:
        key = (yield from tape.read_while(_KEY, 256)).strip()
    if not key or (yield from tape.skip_space()) != ":":
        return None
    tape.take(tape.at + 1)
    yield from tape.skip_space()
    return key


def _read_value(tape: Tape, depth: int) -> Steps[str | None]:
    """Read a value, which comes next, as JSON."""
    if (yield from tape.accept(_QUOTE)):
        pieces: list[str] = []
        closed = yield from tape.read_until(_QUOTES, pieces.append)
        return quoted("".join(pieces)) if closed else None
    char = yield from tape.peek()
    if char in {"[", "{"} and depth < _MAX_DEPTH:
        return (yield from _read_collection(tape, char, depth))
    word = yield from tape.read_while(_BARE, _LIMIT)
    # The end of the word is certain only when something follows.
    return json_or_text(word.strip()) if word.strip() and (yield from tape.peek()) else None


def _read_collection(tape: Tape, opener: str, depth: int) -> Steps[str | None]:
    tape.take(tape.at + 1)
    closer, written = ("]" if opener == "[" else "}"), list[str]()
    while (yield from tape.skip_space()) != closer:
        key = ""
        if opener == "{":
            named = yield from _read_key(tape)
            if named is None:
                return None
            key = json.dumps(named, ensure_ascii=False) + ": "
        value = yield from _read_value(tape, depth + 1)
        char = yield from tape.skip_space()
        if value is None or char not in {",", closer}:
            return None
        written.append(key + value)
        if char == ",":
            tape.take(tape.at + 1)
    tape.take(tape.at + 1)
    return opener + ", ".join(written) + closer


TOOLS = ToolSyntax(("<|tool_call>",), _read, inner=(_END, _QUOTE))
REASONING = ReasoningTags(("<|channel>thought",), ("<channel|>",))
