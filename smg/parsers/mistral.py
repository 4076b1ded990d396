"""Mistral: a list of JSON calls, or since v11 a name and JSON arguments.

[TOOL_CALLS] [{"name": "lookup_tide", "arguments": {"station": "Oban"}}]
[TOOL_CALLS]lookup_tide[ARGS]{"station": "Oban"}
"""

import re

from smg.parsers.json_calls import JsonCall, read_calls
from smg.parsers.json_scanner import JsonScanner
from smg.parsers.reading import Reading
from smg.parsers.tagged import ReasoningTags, ToolSyntax
from smg.parsers.tape import Steps

_FORM = JsonCall(ids=frozenset({"id"}))
_WORD = re.compile(r"[\w.-]*")
_WORD_LIMIT = 256


def _read(reading: Reading, _: str) -> Steps[None]:
    tape = reading.tape
    if (yield from tape.skip_space()) in {"[", "{"}:
        yield from read_calls(reading, _FORM)
        return
    name = yield from tape.read_while(_WORD, _WORD_LIMIT)
    family_id = None
    if (yield from tape.accept("[CALL_ID]")):
        family_id = (yield from tape.read_while(_WORD, _WORD_LIMIT)) or None
    yield from tape.accept("[ARGS]")
    if (yield from tape.skip_space()) != "{" or not name:
        return
    reading.start(name, family_id)
    if (yield from tape.read_json(reading.more, JsonScanner())):
        reading.end()


TOOLS = ToolSyntax(("[TOOL_CALLS]",), _read, inner=("[ARGS]", "[CALL_ID]"))
REASONING = ReasoningTags(("[THINK]", "<think>"), ("[/THINK]", "</think>"))
