"""Writes a call's arguments as JSON, parameter by parameter, for families that send text.

Text of a parameter that must be a string goes out as it comes; other values when they are closed,
because only then it is certain what they are.
"""

from collections.abc import Callable

from smg.parsers.coerce import STRING, coerce, parameter_types, quoted, schema_of
from smg.parsers.reading import Reading
from smg.parsers.tape import Steps

Convert = Callable[[str], str]
"""From a value's text to its JSON."""


class ArgumentWriter:
    """The arguments of one call that has begun."""

    __slots__ = ("_keys", "_reading", "_schema")

    def __init__(self, reading: Reading, tool: str) -> None:
        self._reading = reading
        self._keys = 0
        offered = reading.offered.get(tool)
        self._schema = (
            schema_of(offered.parameters, free_text=offered.free_text) if offered else None
        )

    def types(self, key: str) -> frozenset[str]:
        """What the tool's schema lets this parameter be."""
        return parameter_types(self._schema, key)

    def value(self, key: str, read: Callable[[Callable[[str], None]], Steps[bool]]) -> Steps[bool]:
        """Write one parameter, typed by the schema; `read` gives its text to a sink.

        False if its end was not found; it stays open then.
        """
        types = self.types(key)
        if types == STRING:
            return (yield from self.string(key, read))
        return (yield from self.converted(key, read, lambda text: coerce(text, types)))

    def string(self, key: str, read: Callable[[Callable[[str], None]], Steps[bool]]) -> Steps[bool]:
        """Write one parameter as a string, as its text comes."""
        self._key(key)
        self._reading.more('"')
        closed = yield from read(lambda piece: self._reading.more(quoted(piece)[1:-1]))
        if closed:
            self._reading.more('"')
        return closed

    def converted(
        self, key: str, read: Callable[[Callable[[str], None]], Steps[bool]], convert: Convert
    ) -> Steps[bool]:
        """Write one parameter once its text is whole."""
        pieces: list[str] = []
        if not (yield from read(pieces.append)):
            return False
        self.written(key, convert("".join(pieces)))
        return True

    def written(self, key: str, value: str) -> None:
        """Write one parameter whose value is JSON already."""
        self._key(key)
        self._reading.more(value)

    def end(self) -> None:
        """All parameters are written: the call is complete."""
        self._reading.more("}" if self._keys else "{}")
        self._reading.end()

    def _key(self, key: str) -> None:
        self._reading.more(("{" if not self._keys else ", ") + quoted(key) + ": ")
        self._keys += 1
