"""Calls written as tags around names and raw values: one reader, each dialect a `Markup`.

A value ends at the first closing tag of its own kind; everything else in it is text, byte for
byte. A closing tag inside a value cannot be written in these formats. Once a call's name is out it
is not taken back: if its markup breaks, the call stays open, and the rest is text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

from smg.parsers.argument_writer import ArgumentWriter
from smg.parsers.coerce import coerce, quoted
from smg.parsers.json_scanner import JsonScanner
from smg.parsers.literals import Literals
from smg.parsers.reading import Reading
from smg.parsers.tagged import ToolSyntax
from smg.parsers.tape import SPACE, Steps

# A tag holds a name and a few attributes; what is longer is no tag.
TAG_LIMIT = 512

_ATTRIBUTE = re.compile(r"""([\w:.-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
Attributes = dict[str, str]


def attributes(tag: str) -> Attributes:
    """The attributes in the inside of a tag, quoted or not."""
    return {one[1]: one[2] or one[3] or one[4] or "" for one in _ATTRIBUTE.finditer(tag)}


def named(tag: str) -> Attributes:
    """The inside of a tag that is just a name."""
    return {"name": tag.strip().strip("\"'")}


@dataclass(frozen=True)
class Markup:
    """One dialect."""

    openers: tuple[str, ...]
    """Begin a block."""
    outer: tuple[str, ...]
    """Wrappers that begin a block; those also in `before` may come again before each call."""
    call: str
    """Begins a call's opening tag; `argument` likewise."""
    argument: str
    argument_ends: tuple[str, ...]
    call_ends: tuple[str, ...]
    outer_ends: tuple[str, ...]
    before: tuple[str, ...] = ()
    """May stand before a call."""
    after: tuple[str, ...] = ()
    """May stand after a call."""
    tag_ends: tuple[str, ...] = (">",)
    attributes: Callable[[str], Attributes] = attributes
    name_key: str = "name"
    key_key: str = "name"
    newlines: bool = False
    """Whether one newline on each side of a value belongs to the tags."""
    unclosed: tuple[str, ...] = ()
    """What ends a value whose closing tag was forgotten, a newline before it; it is left standing.

    Only at the start of a line: elsewhere such a tag is text.
    """
    type_key: str = ""
    """The attribute that says whether a value is text."""
    text_types: frozenset[str] = field(default_factory=frozenset)
    json_body: bool = False
    """Whether one JSON object may stand in place of the arguments."""

    @cached_property
    def to_call(self) -> Literals:
        """What may come before a call or begin one."""
        return Literals([*self.outer, *self.before, self.call])

    @cached_property
    def in_call(self) -> Literals:
        """What may come inside a call."""
        return Literals([self.argument, *self.call_ends, *self.outer_ends])

    @cached_property
    def after_call(self) -> Literals:
        """What may come after a call."""
        return Literals([*self.after, *self.outer_ends, *self.before, self.call])

    @cached_property
    def tag_end(self) -> Literals:
        """What ends a tag; one that begins before does not."""
        return Literals(self.tag_ends)

    @cached_property
    def value_ends(self) -> Literals:
        """What ends a value."""
        framed = [f"\n{end}" for end in self.argument_ends if self.newlines]
        return Literals([*framed, *self.argument_ends, *self.unclosed])

    @property
    def inner(self) -> tuple[str, ...]:
        """All that may stand in a block after what opens it."""
        ends = (*self.argument_ends, *self.call_ends, *self.outer_ends)
        return (*self.before, *self.after, self.call, self.argument, *ends)

    def syntax(self, *, framing: tuple[str, ...] = ()) -> ToolSyntax:
        """The dialect as the machine takes it."""
        return ToolSyntax(
            self.openers, partial(_read_block, self), framing=framing, inner=self.inner
        )


def _read_block(markup: Markup, reading: Reading, opener: str) -> Steps[None]:
    """Read calls until something else comes."""
    tape = reading.tape
    literal: str | None = opener
    while literal is not None and literal != markup.call:
        yield from tape.skip_space()
        literal = yield from tape.accept_any(markup.to_call)
    while literal == markup.call:
        if not (yield from _read_call(markup, reading)):
            return
        yield from tape.skip_space()
        literal = yield from tape.accept_any(markup.after_call)
        while literal is not None and literal != markup.call:
            if literal in markup.outer_ends:
                reading.boundary()
                return
            if literal in markup.after:
                reading.boundary()
            yield from tape.skip_space()
            literal = yield from tape.accept_any(markup.after_call)


def _read_call(markup: Markup, reading: Reading) -> Steps[bool]:
    """Read one call after the beginning of its tag; whether it was complete."""
    tape = reading.tape
    tag = yield from tape.read_short(markup.tag_end, TAG_LIMIT)
    name = markup.attributes(tag[0]).get(markup.name_key, "") if tag else ""
    if not name or "<" in name:
        return False
    char = yield from tape.skip_space()
    if markup.json_body and char == "{":
        return (yield from _read_json_body(markup, reading, name))
    literal = yield from tape.accept_any(markup.in_call)
    if literal is None:
        return False
    reading.start(name)
    arguments = ArgumentWriter(reading, name)
    while literal == markup.argument:
        if not (yield from _read_argument(markup, reading, arguments)):
            return False
        yield from tape.skip_space()
        literal = yield from tape.accept_any(markup.in_call)
    if literal is None:
        return False
    if literal in markup.outer_ends:
        # The call's own closing tag was forgotten.
        tape.unread(literal)
    arguments.end()
    return True


def _read_json_body(markup: Markup, reading: Reading, name: str) -> Steps[bool]:
    tape, pieces = reading.tape, list[str]()
    if not (yield from tape.read_json(pieces.append, JsonScanner())):
        return False
    yield from tape.skip_space()
    if (yield from tape.accept_any(Literals(markup.call_ends))) is None:
        return False
    reading.start(name)
    reading.more("".join(pieces))
    reading.end()
    return True


def _read_argument(markup: Markup, reading: Reading, arguments: ArgumentWriter) -> Steps[bool]:
    tag = yield from reading.tape.read_short(markup.tag_end, TAG_LIMIT)
    if tag is None:
        return False
    found = markup.attributes(tag[0])
    key = found.get(markup.key_key, "")
    if markup.newlines:
        yield from reading.tape.accept("\n")
    read = partial(_read_value, markup, reading)
    if not markup.type_key:
        return (yield from arguments.value(key, read))
    if found.get(markup.type_key) in markup.text_types:
        return (yield from arguments.string(key, read))
    return (yield from arguments.converted(key, read, json_or_text))


def _read_value(markup: Markup, reading: Reading, sink: Callable[[str], None]) -> Steps[bool]:
    end = yield from reading.tape.read_until(markup.value_ends, sink)
    if end is not None and end in markup.unclosed:
        reading.tape.unread(end)
    return end is not None


def json_or_text(text: str) -> str:
    """The text, if it is JSON; else as a string."""
    scanner = JsonScanner(strict=True)
    bare = text.strip(SPACE)
    end, _ = scanner.scan(bare, 0)
    if end == len(bare) and scanner.finish():
        return bare
    converted = coerce(bare, frozenset({"boolean", "null", "object", "array"}))
    return quoted(text) if converted.startswith('"') else converted
