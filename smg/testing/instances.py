"""The smallest JSON value that fits a schema: what a model writes that must write something.

Reads the keywords that decide a value's shape (type, properties, required, const, enum, anyOf,
oneOf, allOf, $ref, minItems, minLength, minimum, maximum). Patterns and formats are not followed:
such a string is a row of x.
"""

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 32  # A schema that requires itself has no instance.


class SchemaUnusable(ValueError):
    """Raised when a schema has no instance that could be found."""


def minimal_instance(schema: Any, root: Mapping[str, Any] | None = None, depth: int = 0) -> Any:
    """The smallest value; `root` is where `$ref` looks, the schema itself if not given.

    Raises:
        SchemaUnusable: the schema requires itself without end, or refers to nothing.
    """
    if not isinstance(schema, dict):
        return {}
    if depth > MAX_DEPTH:
        raise SchemaUnusable("The schema has no finite instance")
    root = schema if root is None else root
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if inner := _one_of_several(schema, root):
        return minimal_instance(inner, root, depth + 1)
    return _of_type(schema, root, depth)


def _one_of_several(schema: dict[str, Any], root: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        return _resolve(str(schema["$ref"]), root)
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return schema[key][0]
    parts = [part for part in schema.get("allOf", []) if isinstance(part, dict)]
    if not parts:
        return None
    rest = {key: value for key, value in schema.items() if key != "allOf"}
    return _merged([*parts, rest], root)


def _merged(parts: list[dict[str, Any]], root: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        whole = _resolve(str(part["$ref"]), root) if "$ref" in part else part
        for key, value in whole.items():
            if key == "properties":
                merged[key] = {**merged.get(key, {}), **value}
            elif key == "required":
                merged[key] = [*merged.get(key, []), *value]
            else:
                merged[key] = value
    return merged


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            raise SchemaUnusable(f"The schema refers to {reference}, which is not there")
        found = found[name]
    return found


def _of_type(schema: dict[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    match kind:
        case "array":
            item = schema.get("items", {})
            count = range(schema.get("minItems", 0))
            return [minimal_instance(item, root, depth + 1) for _ in count]
        case "string":
            return "x" * max(1, schema.get("minLength", 1))
        case "integer" | "number":
            return min(max(1, schema.get("minimum", 1)), schema.get("maximum", 2**53))
        case "boolean":
            return True
        case "null":
            return None
    properties = schema.get("properties", {})
    required = schema.get("required", list(properties))
    return {key: minimal_instance(properties.get(key, {}), root, depth + 1) for key in required}
