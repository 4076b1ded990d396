"""Arguments that come as text, turned into the JSON their tool's schema asks for.

Takes a schema and a text, gives JSON text: numbers keep every digit. Knows no family.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

STRING = frozenset({"string"})
_FREE_TEXT: Mapping[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
_INTEGER = re.compile(r"([+-]?)0*([0-9]+)")
_JSON_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": "true", "True": "true", "false": "false", "False": "false"}
_KINDS: tuple[tuple[type, str], ...] = (
    (str, "string"),
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (dict, "object"),
    (list, "array"),
    (type(None), "null"),
)


def schema_of(parameters: Mapping[str, Any] | None, *, free_text: bool) -> Mapping[str, Any]:
    """The schema of a tool's arguments, as the model is told it."""
    if free_text:
        return _FREE_TEXT
    return parameters if parameters is not None else {"type": "object", "properties": {}}


def parameter_types(schema: Mapping[str, Any] | None, name: str) -> frozenset[str]:
    """The JSON types a parameter may have; a string where nothing is known."""
    root = schema or {}
    for part in _parts(root, root):
        properties = part.get("properties")
        if isinstance(properties, Mapping) and name in properties:
            return allowed_types(properties[name], root) or STRING
    return STRING


def allowed_types(schema: object, root: Mapping[str, Any]) -> frozenset[str]:
    """Every JSON type that some part of this schema names."""
    return frozenset(kind for part in _parts(schema, root) for kind in _own_types(part))


def _parts(schema: object, root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The schema, and those it refers to or is combined of, each once."""
    waiting, seen = [schema], set[int]()
    while waiting:
        part = waiting.pop(0)
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting.append(_referred(part.get("$ref"), root))
        for combination in ("anyOf", "oneOf", "allOf"):
            several = part.get(combination)
            waiting += several if isinstance(several, list) else []


def _referred(reference: object, root: Mapping[str, Any]) -> object:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    place: object = root
    for step in reference[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        place = place.get(key) if isinstance(place, Mapping) else None
    return place


def _own_types(schema: Mapping[str, Any]) -> Iterator[str]:
    named = schema.get("type")
    if isinstance(named, str):
        yield named
    elif isinstance(named, list):
        yield from (kind for kind in named if isinstance(kind, str))
    else:
        yield from _implied_types(schema)
    if schema.get("nullable") is True:
        yield "null"


def _implied_types(schema: Mapping[str, Any]) -> Iterator[str]:
    several = schema.get("enum")
    values = list(several) if isinstance(several, list) else []
    if "const" in schema:
        values.append(schema["const"])
    for value in values:
        yield next(kind for of, kind in _KINDS if isinstance(value, of))
    if "properties" in schema:
        yield "object"
    if "items" in schema:
        yield "array"


def coerce(text: str, types: frozenset[str]) -> str:
    """The text as JSON of one of these types; as a string if it fits none.

    Where a string is allowed too, only what is plainly of another type is not one.
    """
    if types == STRING:
        return quoted(text)
    bare = text.strip()
    for kind, convert in _CONVERSIONS:
        if kind in types and (converted := convert(bare, types)) is not None:
            return converted
    return quoted(text)


def quoted(text: str) -> str:
    """The text as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def _null(text: str, types: frozenset[str]) -> str | None:
    # Templates written in Jinja print None.
    return "null" if text == "null" or (text == "None" and "string" not in types) else None


def _boolean(text: str, _: frozenset[str]) -> str | None:
    return _BOOLEANS.get(text)


def _integer(text: str, types: frozenset[str]) -> str | None:
    if "string" in types:
        return text if _JSON_INTEGER.fullmatch(text) else None
    if (found := _INTEGER.fullmatch(text)) is not None:
        return ("-" if found[1] == "-" else "") + found[2]
    return _number(text, types)


def _number(text: str, _: frozenset[str]) -> str | None:
    return text if _JSON_NUMBER.fullmatch(text) else None


def _nested(text: str, types: frozenset[str]) -> str | None:
    if not text or text[0] not in "{[(":
        return None
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_int=str)
    except (ValueError, RecursionError):
        return _python_literal(text, types)
    return text if _fits(value, types) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _python_literal(text: str, types: frozenset[str]) -> str | None:
    try:
        value = ast.literal_eval(text)
        written = json.dumps(_listed(value), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return written if _fits(_listed(value), types) else None


def _listed(value: Any) -> Any:
    """Tuples and sets as lists, which is what JSON has."""
    if isinstance(value, dict):
        return {key: _listed(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [_listed(one) for one in value]
    return value


def _fits(value: object, types: frozenset[str]) -> bool:
    kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else ""
    # A list where an object was asked for says more than a string that holds the list.
    return kind in types or (bool(kind) and "string" not in types)


_CONVERSIONS: tuple[tuple[str, Callable[[str, frozenset[str]], str | None]], ...] = (
    ("null", _null),
    ("boolean", _boolean),
    ("integer", _integer),
    ("number", _number),
    ("object", _nested),
    ("array", _nested),
)
