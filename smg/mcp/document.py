"""A JSON or YAML file to plain values, with `${NAME}` replaced from the environment.

Knows nothing of what the file is about.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smg.errors import ConfigError

_REFERENCE = re.compile(r"\$(?:(?P<escaped>\$)(?=\{)|\{(?P<inside>[^}]*)(?P<end>\}?))")
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Expansion:
    """Replaces references to the environment, in every string of a value."""

    environ: Mapping[str, str]
    wrong: Callable[[str, str], None]
    """Told the place and the mistake of each reference that cannot be followed."""

    def expand(self, where: str, value: object, found: set[str]) -> object:
        """The value, expanded; what came from the environment is added to `found`."""
        if isinstance(value, str):
            return _REFERENCE.sub(lambda match: self._replace(where, match, found), value)
        if isinstance(value, dict):
            return {k: self.expand(f"{where}.{k}", v, found) for k, v in value.items()}
        if isinstance(value, list):
            return [self.expand(f"{where}[{i}]", v, found) for i, v in enumerate(value)]
        return value

    def _replace(self, where: str, reference: re.Match[str], found: set[str]) -> str:
        if reference["escaped"]:
            return "$"
        variable = _VARIABLE.fullmatch(reference["inside"])
        if variable is None or not reference["end"]:
            right = "write ${NAME} or ${NAME:-default}, and $${ for a plain ${"
            self.wrong(where, f"cannot follow {reference[0][:40]!r}: {right}")
            return ""
        value, default = self.environ.get(variable["name"], ""), variable["default"]
        if default is not None and not value:
            return str(default)
        if variable["name"] not in self.environ:
            self.wrong(where, f"the environment variable {variable['name']} is not set")
        found.add(value)
        return value


def read_document(path: Path) -> object:
    """The file's value: JSON if it is called .json, else YAML.

    Raises:
        ConfigError: it cannot be read, is not well-formed, or has a key twice in one place.
    """
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        if is_json:
            return json.loads(text, object_pairs_hook=_unique)
        return yaml.load(text, Loader=_UniqueKeys)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        kind = "JSON" if is_json else "YAML"
        raise ConfigError(f"{path}: is not valid {kind}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; the parser alone takes the last of two equal keys in silence."""
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"the key {key!r} stands twice in one object")
        seen[key] = value
    return seen


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe subset, without the same silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)
