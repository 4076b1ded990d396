"""Tool definitions as people paste them into the lab, to what parsers work with.

Takes decoded JSON of requests or files; knows neither HTTP nor the command line.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from smg.errors import InvalidRequest
from smg.parsers.registry import ToolSchema


def read_tools(given: Sequence[Any], path: str = "tools") -> tuple[ToolSchema, ...]:
    """The tools, in chat's form (`{type, function: {...}}`) or flat (`{name, parameters}`).

    Raises:
        InvalidRequest: one of them is no tool; the error names it.
    """
    return tuple(_read_tool(one, f"{path}[{n}]") for n, one in enumerate(given))


def _read_tool(given: Any, path: str) -> ToolSchema:
    fields = _object(given, path)
    if "function" in fields:
        path = f"{path}.function"
        fields = _object(fields["function"], path)
    name, parameters = fields.get("name"), fields.get("parameters")
    if not isinstance(name, str) or not name:
        raise _wrong(f"{path}.name", "a name")
    if parameters is not None:
        parameters = _object(parameters, f"{path}.parameters")
    is_free = fields.get("type") == "custom"
    return ToolSchema(name=name, parameters=parameters, strict=None, free_text=is_free)


def _object(given: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise _wrong(path, "an object")
    return given


def _wrong(path: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{path}': expected {expected}.", param=path)
