"""Typed access to JSON that somebody else wrote; a mistake is an error that names the field.

Standard library only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smg.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Reader:
    """Typed access to one JSON object; mistakes are told by their path."""

    fields: Mapping[str, Any]
    path: str

    def error(self, key: str, expected: str) -> InvalidRequest:
        """The error for one field."""
        where = f"{self.path}.{key}" if key else self.path
        return InvalidRequest(
            f"Invalid '{where}': expected {expected}.", param=where, code="invalid_type"
        )

    def text(self, key: str) -> str:
        """A string that must be there."""
        if self.fields.get(key) is None:
            where = f"{self.path}.{key}"
            raise InvalidRequest(
                f"Missing required parameter: '{where}'.",
                param=where,
                code="missing_required_parameter",
            )
        return self.optional(key) or ""

    def optional(self, key: str) -> str | None:
        """A string, or None when absent or null."""
        value = self.fields.get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(key, "a string")
        return value

    def flag(self, key: str) -> bool:
        """A boolean that must be there."""
        value = self.fields.get(key)
        if not isinstance(value, bool):
            raise self.error(key, "a boolean")
        return value

    def array(self, key: str) -> Sequence[Any]:
        """An array; absent and null are empty."""
        value = self.fields.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.error(key, "an array")
        return value

    def objects(self, key: str) -> list["Reader"]:
        """An array of objects."""
        readers = []
        for n, value in enumerate(self.array(key)):
            if not isinstance(value, Mapping):
                raise self.error(f"{key}[{n}]", "an object")
            readers.append(Reader(value, f"{self.path}.{key}[{n}]"))
        return readers
