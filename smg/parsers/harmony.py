"""gpt-oss: messages with a channel and a recipient in their header.

    <|channel|>analysis<|message|>thinking<|end|><|start|>assistant<|channel|>commentary
    to=functions.lookup_tide <|constrain|>json<|message|>{"station": "Oban"}<|call|>

The recipient decides first: `functions.X` is a call in any channel, a built-in tool's message is
reasoning. Then the channel: analysis is reasoning, all else content. Once one marker has come as a
token, only tokens are markers, and text that looks like one is text. A header that breaks the
format comes back as text.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smg.parsers.argument_writer import ArgumentWriter
from smg.parsers.base import ParsedDelta, ReasoningText, Text
from smg.parsers.json_scanner import TOKEN_SIGN, JsonScanner
from smg.parsers.literals import Literals
from smg.parsers.reading import Reading, ToolSchema
from smg.parsers.tape import Steps

MARKERS = (
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|return|>",
    "<|call|>",
)
_TOKEN = TOKEN_SIGN
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_HEADER_LIMIT = 512
_BUILT_IN = frozenset({"python", "browser", "container"})
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


@dataclass(frozen=True)
class _Header:
    """What a message's header says."""

    channel: str
    recipient: str

    @property
    def tool(self) -> str | None:
        """The function that is called."""
        if self.recipient in {"", "assistant", "user", "all"}:
            return None
        if self.recipient.startswith("functions."):
            return self.recipient.removeprefix("functions.")
        return None if self.recipient.split(".")[0] in _BUILT_IN else self.recipient

    @property
    def kind(self) -> type[Text] | type[ReasoningText]:
        """What the message's text is."""
        built_in = self.recipient.split(".")[0] in _BUILT_IN
        return ReasoningText if built_in or self.channel == "analysis" else Text


class HarmonyParser:
    """Reads the output of one generation that follows `<|start|>assistant`."""

    __slots__ = ("_reading", "_reads_calls", "_tokens")

    def __init__(self, offered: Sequence[ToolSchema], *, reads_calls: bool) -> None:
        self._reads_calls = reads_calls
        self._tokens = False
        self._reading = Reading(offered)
        self._reading.begin(self._output())

    @property
    def reasoning(self) -> bool:
        """Whether the model is thinking at this point of the text."""
        return self._reading.kind is ReasoningText

    def feed(self, text: str) -> list[ParsedDelta]:
        """Take more text; give what is certain."""
        return self._reading.feed(text)

    def feed_marker(self, marker: str) -> list[ParsedDelta]:
        """Take one special token, whole."""
        return self._reading.feed(_TOKEN + marker if marker in MARKERS else marker)

    def finish(self) -> list[ParsedDelta]:
        """Give up what is still held back: no more is coming. A call left open stays open."""
        return self._reading.finish()

    def _literals(self, markers: Sequence[str]) -> Literals:
        """These markers, in the forms that count."""
        spelled = () if self._tokens else markers
        return Literals([*spelled, *(_TOKEN + marker for marker in markers)])

    def _marker(self, found: str | None) -> str | None:
        """The marker that was found, in whatever form."""
        if found is not None and found.startswith(_TOKEN):
            self._tokens = True
            return found[1:]
        return found

    def _output(self) -> Steps[None]:
        reading = self._reading
        # The prompt ends after the role: a header comes first, if the model keeps to the format.
        char = yield from reading.tape.skip_space()
        if char == "t" and (yield from reading.tape.accept("to=")):
            yield from self._message()
        reading.give_back()
        while True:
            literals = self._literals(["<|start|>", "<|channel|>", "<|message|>", *_ENDS])
            marker = self._marker((yield from reading.prose(literals)))
            if marker is None:
                break
            if marker in _ENDS:
                reading.boundary()
                reading.kind = Text
            else:
                yield from self._message()
                self._refuse()
        reading.flush()

    def _refuse(self) -> None:
        """What is left of a message that could not be read is text."""
        raw = self._reading.tape.give_back()
        if raw:
            self._reading.say(raw.replace(_TOKEN, ""))

    def _message(self) -> Steps[None]:
        """Read the rest of a header, and a call's body; other bodies are prose."""
        reading = self._reading
        header = yield from self._header()
        if header is None:
            return
        reading.kind = header.kind
        if header.tool is not None and self._reads_calls:
            yield from self._call(header.tool)
        else:
            reading.boundary()

    def _header(self) -> Steps[_Header | None]:
        """Read up to and with the marker that ends the header."""
        tape = self._reading.tape
        if tape.log[-1:] and tape.log[-1].endswith("<|message|>"):
            return _Header("", "")
        literals = self._literals(["<|message|>", "<|start|>", *_ENDS])
        found = yield from tape.read_short(literals, _HEADER_LIMIT)
        if found is None:
            return None
        if self._marker(found[1]) != "<|message|>":
            tape.unread(found[1])
            return None
        written = "".join(tape.log).replace(_TOKEN, "")
        recipient, channel = _RECIPIENT.search(written), _CHANNEL.search(written)
        return _Header(channel[1] if channel else "", recipient[1] if recipient else "")

    def _call(self, name: str) -> Steps[None]:
        reading, tape = self._reading, self._reading.tape
        free_text = name in reading.offered and reading.offered[name].free_text
        char = yield from tape.skip_space()
        if char == "{":
            reading.start(name)
            if (yield from tape.read_json(reading.more, JsonScanner())):
                reading.end()
                yield from tape.skip_space()
                if (yield from tape.accept_any(self._literals(_ENDS))):
                    reading.boundary()
                    reading.kind = Text
            reading.drop_cut_markup(_ENDS)
        elif free_text:
            yield from self._free_text(name)
        elif char in {"<", _TOKEN} and (yield from tape.accept_any(self._literals(_ENDS))):
            reading.start(name)
            reading.more("{}")
            reading.end()

    def _free_text(self, name: str) -> Steps[None]:
        """Read a body that is the text itself."""
        reading, literals = self._reading, self._literals(_ENDS)
        reading.start(name)
        arguments = ArgumentWriter(reading, name)

        def read(sink: Callable[[str], None]) -> Steps[bool]:
            return (yield from reading.tape.read_until(literals, sink)) is not None

        if (yield from arguments.string("input", read)):
            arguments.end()
