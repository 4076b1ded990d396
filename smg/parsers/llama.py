"""Llama 3.1 to 3.3: `{"name": ..., "parameters": ...}`, after a tag or at the answer's very start.

Calls in a row are joined by semicolons. What follows the tag and is no JSON is code for a built-in
tool: text here.
"""

from smg.parsers.json_calls import JsonCall, pass_json, read_calls
from smg.parsers.reading import Reading
from smg.parsers.tagged import ToolSyntax
from smg.parsers.tape import Steps

_TAG = "<|python_tag|>"
_BARE = JsonCall(bare=True)


def _read(reading: Reading, opener: str) -> Steps[None]:
    tape, before = reading.tape, reading.calls
    if opener == _TAG:
        yield from tape.skip_space()
    else:
        tape.unread(opener)
    while (yield from read_calls(reading, _BARE)):
        if (yield from tape.skip_space()) == ";":
            tape.take(tape.at + 1)
            yield from tape.skip_space()
        if (yield from tape.peek()) not in {"{", "["}:
            if not (yield from tape.peek()):
                # A separator with nothing after it separates nothing.
                reading.boundary()
            return
    if reading.calls == before and opener != _TAG:
        yield from pass_json(reading)


TOOLS = ToolSyntax((_TAG,), _read, bare=("{",))
