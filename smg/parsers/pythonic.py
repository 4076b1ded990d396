"""Llama 4, ToolACE, Olmo 3 and LFM2: calls written as Python.

    [lookup_tide(station="Oban", days=2), ping_probe()]

Only keyword arguments with literals are calls. A call with an argument that is no literal is left
open, or comes back as text if its name is not out yet; the calls beside it still count.
"""

import re

from smg.parsers.argument_writer import ArgumentWriter
from smg.parsers.literals import Literals
from smg.parsers.python_literals import read_literal, read_string_body, string_quote
from smg.parsers.reading import Reading
from smg.parsers.tagged import ToolSyntax
from smg.parsers.tape import Steps, Tape

_NAME = re.compile(r"[\w.-]*")
_NAME_LIMIT = 256
_STOPS = Literals(["(", ")", '"', "'"])
_WRAPPERS = {
    "<|python_start|>": "<|python_end|>",
    "<function_calls>": "</function_calls>",
    "<|tool_call_start|>": "<|tool_call_end|>",
}


def _read(reading: Reading, opener: str) -> Steps[None]:
    tape, before = reading.tape, reading.calls
    closer = _WRAPPERS.get(opener)
    listed = closer is None
    if closer is not None:
        yield from tape.skip_space()
        listed = yield from tape.accept("[")
    if not (yield from _read_list(reading, listed)) or reading.calls == before:
        return
    tape.log.clear()
    if closer is not None:
        yield from tape.skip_space()
        if (yield from tape.accept(closer)):
            reading.boundary()


def _read_list(reading: Reading, listed: bool) -> Steps[bool]:
    """Read calls, and the bracket that ends their list if there was one before them."""
    tape, before = reading.tape, reading.calls
    yield from tape.skip_space()
    while (yield from _read_call(reading)):
        char = yield from tape.skip_space()
        comma = char == ","
        if comma:
            tape.take(tape.at + 1)
            char = yield from tape.skip_space()  # Python allows a comma behind the last call.
        if char == "]" and listed:
            tape.take(tape.at + 1)
            return True
        if not comma and (listed or not _NAME.fullmatch(char) or not char):
            return not listed
    return reading.calls > before and not listed


def _read_call(reading: Reading) -> Steps[bool]:
    """Read one call; whether there was one, be it broken."""
    tape = reading.tape
    name = yield from tape.read_while(_NAME, _NAME_LIMIT)
    if not name or not (name[0].isalpha() or name[0] == "_"):
        return False
    if not (yield from tape.accept("(")):
        return False
    before = reading.calls
    if (yield from tape.skip_space()) == ")":
        reading.start(name)
    arguments = ArgumentWriter(reading, name)
    while (yield from tape.skip_space()) != ")":
        if not (yield from _read_argument(reading, name, arguments, reading.calls > before)):
            if reading.calls == before:
                return False
            yield from _skip_call(tape)
            reading.give_back()
            return True
        if (yield from tape.skip_space()) == ",":
            tape.take(tape.at + 1)
    tape.take(tape.at + 1)
    arguments.end()
    return True


def _read_argument(
    reading: Reading, name: str, arguments: ArgumentWriter, started: bool
) -> Steps[bool]:
    tape = reading.tape
    key = yield from tape.read_while(_NAME, _NAME_LIMIT)
    if not key or (yield from tape.skip_space()) != "=":
        return False
    tape.take(tape.at + 1)
    char = yield from tape.skip_space()
    if char in {"=", ""}:
        return False
    if not started:
        reading.start(name)
    quote = yield from string_quote(tape)
    if quote is not None:
        return (yield from arguments.string(key, lambda sink: read_string_body(tape, quote, sink)))
    value = yield from read_literal(tape, 0)
    if value is None:
        return False
    arguments.written(key, value)
    return True


def _skip_call(tape: Tape) -> Steps[None]:
    """Read on to the bracket that closes a broken call."""
    open_brackets = 1
    while open_brackets:
        stop = yield from tape.read_until(_STOPS, lambda _: None)
        if stop is None:
            return
        if stop in {'"', "'"}:
            yield from read_string_body(tape, stop, lambda _: None)
        else:
            open_brackets += 1 if stop == "(" else -1


TOOLS = ToolSyntax(
    tuple(_WRAPPERS), _read, bare=("[",), bare_anywhere=True, inner=tuple(_WRAPPERS.values())
)
