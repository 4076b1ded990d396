"""Calls written as JSON objects, alone or in a list.

Arguments pass through as the model wrote them, as soon as the name is known. An object that turns
out to be no call comes back as text, unless its arguments have begun: what was sent was sent.
"""

import json
import re
from dataclasses import dataclass

from smg.parsers.json_scanner import JsonScanner
from smg.parsers.reading import CallReader, Reading
from smg.parsers.tape import Steps, Tape


@dataclass(frozen=True)
class JsonCall:
    """Which keys of the object mean what."""

    names: frozenset[str] = frozenset({"name"})
    arguments: frozenset[str] = frozenset({"arguments", "parameters"})
    ids: frozenset[str] = frozenset()
    bare: bool = False
    """No marker stands around it: then it needs arguments or a known name, and no other keys."""


_BARE = JsonCall(names=frozenset({"name", "function"}), bare=True)
# Keys of OpenAI's own form, which some models repeat; they say nothing.
_IDLE_KEYS = frozenset({"id", "type"})


_SURPLUS = re.compile(r"[\s}\]]*")
_SURPLUS_LIMIT = 16


class _Draft:
    """A call as far as it is read."""

    __slots__ = ("arguments", "family_id", "name", "started")

    def __init__(self) -> None:
        self.name = ""
        self.family_id: str | None = None
        self.arguments: list[str] = []
        self.started = False

    def start(self, reading: Reading) -> None:
        """Begin the call."""
        self.started = True
        reading.start(self.name, self.family_id)

    def end(self, reading: Reading) -> None:
        """The arguments are whole, and the call with them, whatever becomes of its object."""
        reading.end()
        # If the output ends before the object does, what is left is markup of this call.
        reading.call_open = True

    def try_all(self, reading: Reading) -> None:
        """Give the call as soon as its name and all arguments are there."""
        if self.name and self.arguments and not self.started:
            self.start(reading)
            reading.more("".join(self.arguments))
            self.end(reading)


def read_calls(reading: Reading, form: JsonCall) -> Steps[bool]:
    """Read one call or a list of calls, which comes next; whether it was complete."""
    tape = reading.tape
    if (yield from tape.peek()) != "[":
        return (yield from read_call(reading, form))
    tape.take(tape.at + 1)
    yield from tape.skip_space()
    while (yield from read_call(reading, form)):
        char = yield from tape.skip_space()
        if not char or char not in ",]":
            return False
        tape.take(tape.at + 1)
        if char == "]":
            tape.log.clear()
            return True
        yield from tape.skip_space()
    return False


def read_call(reading: Reading, form: JsonCall) -> Steps[bool]:
    """Read one call, which comes next; whether it was complete."""
    tape, draft = reading.tape, _Draft()
    if not (yield from tape.accept("{")):
        return False
    char = yield from tape.skip_space()
    while char != "}":
        if not (yield from _read_member(reading, form, draft)):
            return False
        char = yield from tape.skip_space()
        if char == ",":
            tape.take(tape.at + 1)
            char = yield from tape.skip_space()
        elif char != "}":
            return False
    return _finish_call(reading, form, draft)


def _finish_call(reading: Reading, form: JsonCall, draft: _Draft) -> bool:
    if not draft.name or (form.bare and not draft.started and draft.name not in reading.offered):
        return False
    reading.tape.take(reading.tape.at + 1)
    if not draft.arguments:
        draft.arguments.append("{}")
    draft.try_all(reading)
    reading.call_open = False
    reading.tape.log.clear()
    return True


def _read_member(reading: Reading, form: JsonCall, draft: _Draft) -> Steps[bool]:
    """Read a key and its value; whether the object may still be a call."""
    tape = reading.tape
    key = yield from read_string(tape)
    if key is None or (yield from tape.skip_space()) != ":":
        return False
    tape.take(tape.at + 1)
    yield from tape.skip_space()
    if key in form.names and not draft.name:
        draft.name = (yield from read_string(tape)) or ""
        draft.try_all(reading)
        return bool(draft.name)
    if key in form.arguments and not (draft.arguments or draft.started):
        return (yield from _read_arguments(reading, draft))
    if key in form.ids and not draft.family_id:
        pieces: list[str] = []
        whole = yield from tape.read_json(pieces.append, JsonScanner())
        draft.family_id = "".join(pieces).strip('"') or None
        return whole
    if form.bare and not draft.started and key not in _IDLE_KEYS:
        return False
    return (yield from tape.read_json(_drop, JsonScanner()))


def _drop(_: str) -> None:
    """Of this nothing is kept."""


def _read_arguments(reading: Reading, draft: _Draft) -> Steps[bool]:
    tape = reading.tape
    char = yield from tape.peek()
    if char == "{":
        return (yield from _read_object(reading, draft))
    if char == '"':
        encoded = yield from read_string(tape)
        decoded = json_object(encoded) if encoded is not None else None
        draft.arguments += [decoded] if decoded is not None else []
        draft.try_all(reading)
        return decoded is not None
    return (yield from tape.accept("null"))


def _read_object(reading: Reading, draft: _Draft) -> Steps[bool]:
    scanner = JsonScanner()
    if not draft.name:
        return (yield from reading.tape.read_json(draft.arguments.append, scanner))
    draft.start(reading)
    whole = yield from reading.tape.read_json(reading.more, scanner)
    if whole:
        draft.end(reading)
    return whole


def json_object(text: str) -> str | None:
    """The text, if it is a JSON object; of an empty text the empty object."""
    scanner = JsonScanner()
    text = text.strip() or "{}"
    end, clean = scanner.scan(text, 0)
    return clean if text[0] == "{" and scanner.done and end == len(text) else None


def read_string(tape: Tape) -> Steps[str | None]:
    """Read a JSON string, which comes next; None if it does not."""
    if (yield from tape.peek()) != '"':
        return None
    pieces: list[str] = []
    if not (yield from tape.read_json(pieces.append, JsonScanner())):
        return None
    decoded: str = json.loads("".join(pieces))
    return decoded


def block_reader(form: JsonCall, closers: tuple[str, ...]) -> CallReader:
    """Read calls between markers: several objects may follow one another, the closer may lack."""

    def read(reading: Reading, _: str) -> Steps[None]:
        tape, before = reading.tape, reading.calls
        char = yield from tape.skip_space()
        while char and char in "{[":
            if not (yield from read_calls(reading, form)):
                break
            char = yield from tape.skip_space()
        if reading.calls > before:
            # Models miscount the brackets at the end.
            yield from tape.read_while(_SURPLUS, _SURPLUS_LIMIT)
        for closer in closers:
            if reading.calls > before and (yield from tape.accept(closer)):
                reading.boundary()
                return

    return read


def read_bare(reading: Reading, opener: str) -> Steps[None]:
    """Read JSON in the midst of text: a call, or else text to the end of its value."""
    reading.tape.unread(opener)
    if (yield from read_calls(reading, _BARE)):
        return
    yield from pass_json(reading)


def pass_json(reading: Reading) -> Steps[None]:
    """Let the JSON value through whose beginning was read and found to be no call."""
    raw = reading.tape.give_back()
    scanner = JsonScanner(strict=True)
    end, _ = scanner.scan(raw, 0)
    reading.say(raw)
    if raw and end == len(raw) and not (scanner.done or scanner.failed):
        yield from reading.tape.read_json(reading.say, scanner)
