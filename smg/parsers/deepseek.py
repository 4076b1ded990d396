"""DeepSeek: calls between marker tokens, or from V3.2 on in tags (DSML).

V3 and R1 write a type word and a fence around the JSON, V3.1 only name and JSON. They share
markers, and distilled models mix them up, so one reader takes both. The closing markers at the end
are often missing. DSML says of each value whether it is a string, in an attribute.
"""

import re

from smg.parsers.json_scanner import JsonScanner
from smg.parsers.literals import Literals
from smg.parsers.markup import Markup
from smg.parsers.reading import Reading
from smg.parsers.tagged import ReasoningTags, ToolSyntax
from smg.parsers.tape import Steps

_BLOCK, _BLOCK_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END, _SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_FENCE = "```json"
_TO_CALL = Literals([_BLOCK, _CALL])
_AFTER_CALL = Literals([_CALL, _BLOCK_END, _BLOCK])
_TO_NAME = Literals([_SEP])
_NAME = re.compile(r"[^\n<{`]*")
_NAME_LIMIT = 256


def _read(reading: Reading, opener: str) -> Steps[None]:
    tape = reading.tape
    literal: str | None = opener
    while literal is not None and literal != _BLOCK_END:
        if literal == _CALL and not (yield from _read_call(reading)):
            return
        yield from tape.skip_space()
        literal = yield from tape.accept_any(_TO_CALL if literal == _BLOCK else _AFTER_CALL)
    if literal is not None:
        reading.boundary()


def _read_call(reading: Reading) -> Steps[bool]:
    tape = reading.tape
    header = yield from tape.read_short(_TO_NAME, _NAME_LIMIT)
    if header is None:
        return False
    name = header[0].strip()
    char = yield from tape.skip_space()
    fenced = name == "function" and char != "{"
    if fenced:
        name = (yield from tape.read_while(_NAME, _NAME_LIMIT)).strip()
        yield from tape.skip_space()
        yield from tape.accept(_FENCE)
        char = yield from tape.skip_space()
    if char != "{" or not name:
        return False
    reading.start(name)
    if not (yield from tape.read_json(reading.more, JsonScanner())):
        return False
    reading.end()
    yield from tape.skip_space()
    if fenced and (yield from tape.accept("```")):
        yield from tape.skip_space()
    if (yield from tape.accept(_CALL_END)):
        reading.boundary()
    return True


TOOLS = ToolSyntax((_BLOCK, _CALL), _read, inner=(_BLOCK_END, _CALL_END, _SEP))

_DSML_BLOCKS = ("<｜DSML｜function_calls>", "<｜DSML｜tool_calls>")
DSML = Markup(
    openers=_DSML_BLOCKS,
    outer=_DSML_BLOCKS,
    call="<｜DSML｜invoke",
    argument="<｜DSML｜parameter",
    argument_ends=("</｜DSML｜parameter>",),
    call_ends=("</｜DSML｜invoke>",),
    outer_ends=("</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"),
    type_key="string",
    text_types=frozenset({"true"}),
    json_body=True,
).syntax()

R1 = ReasoningTags(opens=True)
V31 = ReasoningTags()
