"""Bytes of a server-sent stream to the JSON objects in it."""

import json
from collections.abc import Iterator
from typing import Any, Final

LONGEST_LINE: Final = 16 * 1024 * 1024
DONE: Final = "[DONE]"


class DataLines:
    """Takes bytes cut anywhere. Only line feeds end a line: JSON may hold all other separators."""

    def __init__(self) -> None:
        self._held = bytearray()
        self.done = False
        """Whether the server has said that nothing more comes."""

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The objects that are complete now.

        Raises:
            ValueError: a line is no JSON object, or longer than any real one.
        """
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._held += line
            whole = self._held.decode().removesuffix("\r")
            self._held.clear()
            if (told := self._read(whole)) is not None:
                yield told
        self._held += rest
        if len(self._held) > LONGEST_LINE:
            raise ValueError(f"a line of more than {LONGEST_LINE} bytes")

    def _read(self, line: str) -> dict[str, Any] | None:
        name, _, value = line.partition(":")
        value = value.strip()
        if name != "data" or not value or self.done:
            return None  # A comment, another field, or the end of an event.
        if value == DONE:
            self.done = True
            return None
        told = json.loads(value)
        if not isinstance(told, dict):
            raise ValueError(f"expected a JSON object, not {value[:40]!r}")  # noqa: TRY004
        return told
