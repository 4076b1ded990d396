"""The one machine for every family: reasoning first, then prose with blocks of calls in it.

A family is data: `ReasoningTags` and a `ToolSyntax`, which brings the reader of its call blocks.
Any tags go with any syntax. Text in, parsed deltas out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from smg.parsers.base import ParsedDelta, ReasoningText, Text
from smg.parsers.literals import Literals
from smg.parsers.reading import CallReader, Reading, ToolSchema
from smg.parsers.tape import Steps


@dataclass(frozen=True)
class ReasoningTags:
    """How a family sets its reasoning apart from the answer."""

    starts: tuple[str, ...] = ("<think>",)
    ends: tuple[str, ...] = ("</think>",)
    opens: bool = False
    """Whether the output begins inside, when the prompt does not tell."""
    also_ends: tuple[str, ...] = ()
    """Markers of what comes next: they end reasoning that was not closed."""
    framing: tuple[str, ...] = ()
    """Markers around the answer, which mean nothing."""


@dataclass(frozen=True)
class ToolSyntax:
    """How a family writes its calls."""

    openers: tuple[str, ...]
    """Markers that begin a block of calls."""
    read: CallReader
    bare: tuple[str, ...] = ()
    """Ordinary characters that may begin a call; not looked for in reasoning."""
    bare_anywhere: bool = False
    """Whether a bare call may follow other text; otherwise it begins the answer."""
    framing: tuple[str, ...] = ()
    """Markers around the answer, which mean nothing."""
    inner: tuple[str, ...] = ()
    """Further markers of a block; some are special tokens in some tokenizer."""


NO_REASONING = ReasoningTags(starts=(), ends=())


class TaggedParser:
    """Reads the output of one generation.

    Reasoning that is not closed is ended by a call; but as a call drafted inside a closed block is
    none, calls found there wait until the block is closed or the output ends.
    """

    __slots__ = ("_reading", "_tags", "_thinking", "_tools")

    def __init__(
        self,
        tags: ReasoningTags,
        tools: ToolSyntax | None,
        offered: Sequence[ToolSchema],
        starts_open: bool | None,
    ) -> None:
        self._tags = tags
        self._tools = tools
        self._thinking = bool(tags.ends) and (tags.opens if starts_open is None else starts_open)
        self._reading = Reading(offered)
        self._reading.begin(self._output())

    @property
    def reasoning(self) -> bool:
        """Whether the model is thinking at this point of the text."""
        return self._thinking

    def feed(self, text: str) -> list[ParsedDelta]:
        """Take more text; give what is certain."""
        return self._reading.feed(text)

    def feed_marker(self, marker: str) -> list[ParsedDelta]:
        """Take one special token, whole: here the same as text."""
        return self._reading.feed(marker)

    def finish(self) -> list[ParsedDelta]:
        """Give up what is still held back: no more is coming. A call left open stays open."""
        return self._reading.finish()

    def _output(self) -> Steps[None]:
        if self._tags.ends:
            yield from self._beginning()
        if self._thinking:
            yield from self._reasoning()
            self._thinking = False
        self._reading.kind = Text
        yield from self._answer(())
        self._reading.flush()

    def _beginning(self) -> Steps[None]:
        """A start tag counts only here; where the prompt has written it already, it is repeated."""
        reading = self._reading
        yield from reading.tape.skip_space()
        if (yield from reading.tape.accept_any(Literals(self._tags.starts))) is not None:
            self._thinking = True
        if self._thinking:
            reading.kind = ReasoningText
            reading.boundary()
        else:
            reading.give_back()

    def _reasoning(self) -> Steps[None]:
        tags, reading = self._tags, self._reading
        endings = {*tags.ends, *tags.also_ends}
        openers = self._tools.openers if self._tools else ()
        literals = Literals([*tags.ends, *tags.also_ends, *openers])
        while (marker := (yield from reading.prose(literals))) is not None:
            if marker in openers:
                if (yield from self._trial(marker)):
                    return
            elif marker in endings:
                reading.boundary()
                return
        reading.flush()

    def _trial(self, opener: str) -> Steps[bool]:
        """Read what may be a call in open reasoning; whether the reasoning is over."""
        reading = self._reading
        reading.begin_trial(opener)
        if not (yield from self._block(opener)):
            reading.accept_trial()
            return False
        reading.kind = Text
        closer = yield from self._answer(self._tags.ends)
        if closer is None:
            reading.flush()
            reading.accept_trial()
        else:
            reading.reject_trial(closer)
            reading.boundary()
        return True

    def _answer(self, ends: tuple[str, ...]) -> Steps[str | None]:
        """Read prose and calls up to one of these ends, or to the end of the output."""
        tags, tools, reading = self._tags, self._tools, self._reading
        framing = {*tags.framing, *(tools.framing if tools else ())}
        openers: tuple[str, ...] = tools.openers if tools else ()
        if tools and tools.bare_anywhere:
            openers += tools.bare
        elif tools and tools.bare:
            yield from self._first(tools.bare)
        literals = Literals([*openers, *framing, *ends])
        while (marker := (yield from reading.prose(literals))) is not None:
            if marker in ends:
                return marker
            if marker in framing:
                reading.boundary()
            else:
                yield from self._block(marker)
        return None

    def _first(self, bare: tuple[str, ...]) -> Steps[None]:
        reading = self._reading
        char = yield from reading.tape.skip_space()
        reading.give_back()
        if char in bare and char:
            reading.tape.take(reading.tape.at + 1)
            yield from self._block(char)

    def _block(self, opener: str) -> Steps[bool]:
        """Read a block of calls; whether there was one."""
        reading, before = self._reading, self._reading.calls
        if self._tools is not None:
            yield from self._tools.read(reading, opener)
            if reading.calls > before:
                reading.drop_cut_markup((*self._tools.openers, *self._tools.inner))
        reading.give_back()
        return reading.calls > before
