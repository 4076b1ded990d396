"""What a family's reader works with: the text, the tools on offer, and where its findings go.

Text goes in as the tape gives it, parsed deltas come out; which marker means what is the reader's
business.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smg.parsers.base import (
    ParsedDelta,
    ReasoningText,
    Text,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from smg.parsers.literals import Literals
from smg.parsers.tape import SPACE, Steps, Tape
from smg.turn import Constraint


@dataclass(frozen=True)
class ToolSchema:
    """A tool as the model sees it."""

    name: str
    parameters: Mapping[str, Any] | None
    strict: bool | None
    free_text: bool = False
    """A custom tool: its one parameter is the string `input`."""
    form: Constraint | None = None
    """What that string must look like."""


class Reading:
    """One output being read.

    Everything read from the tape is either given away by a method here or still in the tape's
    log; whatever a reader leaves in the log when it returns was no call, and becomes text again.
    """

    __slots__ = (
        "_fresh",
        "_ready",
        "_run",
        "_space",
        "call_open",
        "calls",
        "easy",
        "kind",
        "offered",
        "tape",
        "trial_deltas",
        "trial_space",
    )

    def __init__(self, offered: Sequence[ToolSchema]) -> None:
        self.tape = Tape()
        self.offered = {tool.name: tool for tool in offered}
        self.kind: type[Text] | type[ReasoningText] = Text
        """What prose is at this point of the output."""
        self.calls = 0
        """How many calls have begun."""
        self.call_open = False
        """Whether the last of them is not complete."""
        self.easy: frozenset[str] | None = None
        """Characters without which more prose needs no look; None: it does."""
        self.trial_deltas: list[ParsedDelta] | None = None
        self.trial_space = ""
        self._ready: list[ParsedDelta] = []
        # White space next to a marker means nothing, so it waits for what follows.
        self._space: list[str] = []
        self._fresh = False
        self._run = _nothing()

    def begin(self, run: Steps[None]) -> None:
        """Read with this reader from now on."""
        self._run = run
        next(run)

    def feed(self, text: str) -> list[ParsedDelta]:
        """Take more text; give what is certain."""
        easy = self.easy
        # Nearly every token: nothing held, and no character that could open a marker.
        if easy is not None and text and text[-1] not in SPACE and easy.isdisjoint(text):
            return [self.kind(text)]
        self.tape.push(text)
        next(self._run)
        return self._take_ready()

    def finish(self) -> list[ParsedDelta]:
        """No more text is coming: give the rest."""
        self.tape.ended = True
        for _ in self._run:
            raise AssertionError("A reader waits for more text after the end")
        return self._take_ready()

    def _take_ready(self) -> list[ParsedDelta]:
        ready, self._ready = self._ready, []
        return ready

    def say(self, text: str) -> None:
        """Text that is no markup."""
        self.tape.log.clear()
        if self._fresh:
            text = text.lstrip(SPACE)
            if not text:
                return
            self._fresh = False
        body = text.rstrip(SPACE)
        if not body:
            self._space.append(text)
            return
        tail = text[len(body) :]
        if self._space:
            body = "".join([*self._space, body])
            self._space.clear()
        if tail:
            self._space.append(tail)
        self._put(self.kind(body))

    def boundary(self) -> None:
        """Here stood markup: it is gone, and so is the white space around it."""
        self.tape.log.clear()
        self._space.clear()
        self._fresh = True

    def start(self, name: str, family_id: str | None = None) -> None:
        """A call of this name begins; reasoning, if it was still open, is over."""
        self.boundary()
        self.kind = Text
        self.calls += 1
        self.call_open = True
        self._put(ToolCallStart(name, family_id))

    def more(self, arguments: str) -> None:
        """More of the call's arguments."""
        self.tape.log.clear()
        if arguments:
            self._put(ToolCallArguments(arguments))

    def end(self) -> None:
        """The call is complete."""
        self.call_open = False
        self.tape.log.clear()
        self._put(ToolCallEnd())

    def prose(self, literals: Literals) -> Steps[str | None]:
        """Let text through up to the next marker; read that and give it, None at the end.

        The marker is in the log: `boundary` or `give_back` settles what it was.
        """
        tape = self.tape
        while True:
            if (found := literals.search(tape.text, tape.at)) is not None:
                place, literal = found
                if place > tape.at:
                    self.say(tape.take(place))
                tape.take(place + len(literal))
                return literal
            certain = len(tape.text) if tape.ended else literals.held_from(tape.text, tape.at)
            if certain > tape.at:
                self.say(tape.take(certain))
            if tape.ended:
                return None
            if tape.at == len(tape.text) and not (self._space or self._fresh):
                self.easy = None if tape.trial is not None else literals.starts
            yield
            self.easy = None

    def give_back(self) -> None:
        """What was read since the last decision was no markup."""
        self.say(self.tape.give_back())

    def drop_cut_markup(self, markers: Collection[str]) -> None:
        """Forget what is left if the output ended inside a call, or inside a marker after one."""
        tape = self.tape
        rest = tape.text[tape.at :]
        if not tape.ended or (tape.log and "".join(tape.log).strip(SPACE) and not self.call_open):
            return
        if self.call_open or any(marker.startswith(rest) for marker in markers):
            tape.drop_rest()

    def flush(self) -> None:
        """No more is coming: white space that no marker followed is text after all."""
        space = "".join(self._space)
        self._space.clear()
        if space:
            self._put(self.kind(space))

    def begin_trial(self, marker: str) -> None:
        """Keep back what is found from this marker on, and the text it was found in."""
        self.trial_space = "".join(self._space)
        self.trial_deltas = []
        self.tape.trial = [marker]

    def accept_trial(self) -> None:
        """What was found counts."""
        self._ready += self.trial_deltas or ()
        self.trial_deltas = None
        self.tape.trial = None

    def reject_trial(self, marker: str) -> None:
        """Nothing counts: all text up to this marker, now read, was prose."""
        raw = "".join(self.tape.trial or ())
        self.trial_deltas = None
        self.tape.trial = None
        self._space[:] = [self.trial_space] if self.trial_space else []
        self._fresh = False
        self.kind = ReasoningText
        self.say(raw[: len(raw) - len(marker)])

    def _put(self, delta: ParsedDelta) -> None:
        if self.trial_deltas is None:
            self._ready.append(delta)
        else:
            self.trial_deltas.append(delta)


def _nothing() -> Steps[None]:
    """What is read before a reader has begun."""
    yield


CallReader = Callable[[Reading, str], Steps[None]]
"""Reads one block of calls after its opening marker, as far as it is one."""
