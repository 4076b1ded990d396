"""JSON schemas of whole calls, made from the schemas of their arguments."""

from collections.abc import Mapping, Sequence
from typing import Any

from smg.parsers.coerce import schema_of
from smg.parsers.reading import ToolSchema

Schema = dict[str, Any]


def arguments_schema(tool: ToolSchema) -> Schema:
    """What a tool's arguments must be."""
    return dict(schema_of(tool.parameters, free_text=tool.free_text))


def calls_schema(
    tools: Sequence[ToolSchema], *, keys: Mapping[str, str], extra: Schema, single: bool
) -> Schema:
    """A list of calls; `keys` says how their `name` and `arguments` are called.

    Definitions of several tools may share a name, so each gets its tool's name before its own.
    """
    definitions: Schema = {}
    several = [
        {
            "type": "object",
            "properties": {
                **extra,
                keys["name"]: {"type": "string", "enum": [tool.name]},
                keys["arguments"]: _moved(tool, definitions),
            },
            "required": [*extra, keys["name"], keys["arguments"]],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    schema: Schema = {"type": "array", "minItems": 1, "items": {"anyOf": several}}
    if single:
        schema["maxItems"] = 1
    if definitions:
        schema["$defs"] = definitions
    return schema


def _moved(tool: ToolSchema, definitions: Schema) -> Schema:
    """The schema of a tool's arguments, its definitions moved to the shared ones."""
    schema = arguments_schema(tool)
    own = {**schema.pop("definitions", {}), **schema.pop("$defs", {})}
    for name, definition in own.items():
        definitions[f"{tool.name}.{name}"] = _renamed(definition, tool.name)
    moved: Schema = _renamed(schema, tool.name)
    if _refers_to_itself([schema, own]):
        definitions[tool.name] = moved
        return {"$ref": f"#/$defs/{tool.name}"}
    return moved


def _renamed(part: Any, tool: str) -> Any:
    if isinstance(part, list):
        return [_renamed(one, tool) for one in part]
    if not isinstance(part, Mapping):
        return part
    renamed = {key: _renamed(value, tool) for key, value in part.items()}
    reference = part.get("$ref")
    if isinstance(reference, str):
        renamed["$ref"] = _renamed_reference(reference, tool)
    return renamed


def _renamed_reference(reference: str, tool: str) -> str:
    for place in ("#/$defs/", "#/definitions/"):
        if reference.startswith(place):
            return f"#/$defs/{tool}.{reference.removeprefix(place)}"
    return f"#/$defs/{tool}{reference[1:]}" if reference.startswith("#") else reference


def _refers_to_itself(part: Any) -> bool:
    """Whether some reference leads elsewhere than to the definitions."""
    if isinstance(part, list):
        return any(map(_refers_to_itself, part))
    if not isinstance(part, Mapping):
        return False
    reference = part.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        return not reference.startswith(("#/$defs/", "#/definitions/"))
    return any(map(_refers_to_itself, part.values()))
