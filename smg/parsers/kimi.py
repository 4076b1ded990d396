"""Kimi K2 (a section of calls, each with its id as a header) and K3 (channels and typed arguments).

    <|tool_calls_section_begin|><|tool_call_begin|>functions.lookup_tide:0
    <|tool_call_argument_begin|>{"station": "Oban"}<|tool_call_end|><|tool_calls_section_end|>

The header goes out as the family's id: the template writes it back as it is. Text between a
section and its calls is dropped. A header that is only a number names no tool; the arguments do.
"""

import json
import re

from smg.parsers.coerce import schema_of
from smg.parsers.json_scanner import JsonScanner
from smg.parsers.literals import Literals
from smg.parsers.markup import Attributes, Markup, attributes
from smg.parsers.reading import Reading
from smg.parsers.tagged import ReasoningTags, ToolSyntax
from smg.parsers.tape import Steps

_SECTION, _SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
_ARGUMENTS = "<|tool_call_argument_begin|>"
_NEXT = Literals([_CALL, _SECTION_END])
_HEADER_END = Literals([_ARGUMENTS])
# A marker that only stands in a sentence must not silence the rest of the answer.
_STRAY_LIMIT = 200
_HEADER_LIMIT = 300
_NUMBERED = re.compile(r"(?:functions\.)?(.*?)(?::\d+)?", re.DOTALL)


def _read(reading: Reading, opener: str) -> Steps[None]:
    tape, before = reading.tape, reading.calls
    literal = opener
    while literal != _SECTION_END:
        if literal == _CALL and not (yield from _read_call(reading)):
            return
        yield from tape.skip_space()
        if opener == _CALL:
            yield from tape.accept(_SECTION_END)
            reading.boundary()
            return
        found = yield from tape.read_short(_NEXT, _STRAY_LIMIT)
        if found is None:
            return
        literal = found[1]
    if reading.calls > before:
        reading.boundary()


def _read_call(reading: Reading) -> Steps[bool]:
    tape = reading.tape
    found = yield from tape.read_short(_HEADER_END, _HEADER_LIMIT)
    if found is None or (yield from tape.skip_space()) != "{":
        return False
    family_id = found[0].strip()
    matched = _NUMBERED.fullmatch(family_id)
    name = matched[1].strip() if matched else ""
    if not name or name.isdecimal():
        whole = yield from _read_nameless(reading, family_id)
    else:
        reading.start(name, family_id)
        whole = yield from tape.read_json(reading.more, JsonScanner())
    if not whole:
        return False
    reading.end()
    yield from tape.skip_space()
    if (yield from tape.accept(_CALL_END)):
        reading.boundary()
    return True


def _read_nameless(reading: Reading, family_id: str) -> Steps[bool]:
    """Read a call without a name: the first tool that has all of its arguments is meant."""
    pieces: list[str] = []
    if not (yield from reading.tape.read_json(pieces.append, JsonScanner())):
        return False
    arguments = "".join(pieces)
    keys = json.loads(arguments, parse_int=str).keys()
    for tool in reading.offered.values():
        schema = schema_of(tool.parameters, free_text=tool.free_text)
        if keys <= schema.get("properties", {}).keys() and keys >= set(schema.get("required", ())):
            reading.start(tool.name, family_id)
            reading.more(arguments)
            return True
    return False


TOOLS = ToolSyntax((_SECTION, _CALL), _read, inner=(_SECTION_END, _CALL_END, _ARGUMENTS))

REASONING = ReasoningTags(("◁think▷",), ("◁/think▷",))
THINKING = ReasoningTags(opens=True)


def _xtml_attributes(tag: str) -> Attributes:
    found = attributes(tag)
    return {key: value.replace("&quot;", '"').replace("&amp;", "&") for key, value in found.items()}


_CHANNEL_STARTS = ("<|open|>response<|sep|>", "<|open|>message<|sep|>")
_CHANNEL_ENDS = ("<|close|>response<|sep|>", "<|close|>message<|sep|>")

K3 = Markup(
    openers=("<|open|>tools<|sep|>",),
    outer=("<|open|>tools<|sep|>",),
    call="<|open|>call",
    argument="<|open|>argument",
    argument_ends=("<|close|>argument<|sep|>",),
    call_ends=("<|close|>call<|sep|>",),
    outer_ends=("<|close|>tools<|sep|>",),
    tag_ends=("<|sep|>",),
    attributes=_xtml_attributes,
    name_key="tool",
    key_key="key",
    type_key="type",
    text_types=frozenset({"string"}),
).syntax(framing=(*_CHANNEL_STARTS, *_CHANNEL_ENDS))
K3_REASONING = ReasoningTags(
    ("<|open|>think<|sep|>",),
    ("<|close|>think<|sep|>",),
    opens=True,
    also_ends=(*_CHANNEL_STARTS, *_CHANNEL_ENDS),
    framing=(*_CHANNEL_STARTS, *_CHANNEL_ENDS),
)
