"""GLM 4.5 to 5: a name, then pairs of key and value tags. One reader for all.

    <tool_call>lookup_tide
    <arg_key>station</arg_key>
    <arg_value>Oban</arg_value>
    </tool_call>

From 4.7 on without newlines. Under load the model skips an opening `<arg_value>`; some backends
print a newline as the two characters `\\n`.
"""

import re
from collections.abc import Callable

from smg.parsers.argument_writer import ArgumentWriter
from smg.parsers.literals import Literals
from smg.parsers.reading import Reading
from smg.parsers.tagged import ReasoningTags, ToolSyntax
from smg.parsers.tape import Steps, Tape

_NAME = re.compile(r"[\w./:-]*")
_NAME_LIMIT = 256
_KEY, _KEY_END = "<arg_key>", "</arg_key>"
_VALUE, _VALUE_END = "<arg_value>", "</arg_value>"
_END = "</tool_call>"
_NEXT = Literals([_KEY, _END])
_AFTER_KEY = Literals([_KEY_END])
_AFTER_VALUE = Literals([_VALUE_END])


def _skip_breaks(tape: Tape) -> Steps[None]:
    yield from tape.skip_space()
    while (yield from tape.accept("\\n")):
        yield from tape.skip_space()


def _read(reading: Reading, _: str) -> Steps[None]:
    tape = reading.tape
    yield from _skip_breaks(tape)
    name = yield from tape.read_while(_NAME, _NAME_LIMIT)
    yield from _skip_breaks(tape)
    literal = yield from tape.accept_any(_NEXT)
    if not name or literal is None:
        return
    reading.start(name)
    arguments = ArgumentWriter(reading, name)
    while literal == _KEY:
        key = yield from tape.read_short(_AFTER_KEY, _NAME_LIMIT)
        if key is None:
            return
        yield from _skip_breaks(tape)
        if not (yield from tape.accept(_VALUE)) and tape.ended:
            return
        if not (yield from arguments.value(key[0].strip(), _value_of(tape))):
            return
        yield from _skip_breaks(tape)
        literal = yield from tape.accept_any(_NEXT)
    if literal == _END:
        arguments.end()
        reading.boundary()


def _value_of(tape: Tape) -> Callable[[Callable[[str], None]], Steps[bool]]:
    def read(sink: Callable[[str], None]) -> Steps[bool]:
        return (yield from tape.read_until(_AFTER_VALUE, sink)) is not None

    return read


TOOLS = ToolSyntax(("<tool_call>",), _read, inner=(_END, _KEY, _KEY_END, _VALUE, _VALUE_END))
REASONING = ReasoningTags()
