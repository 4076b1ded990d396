"""The bodies of the parser lab, as they come over the wire. Used at the edge only."""

from typing import Any

from smg.web.schema import Wire


class ParseFunctionCall(Wire):
    """POST /parse/function_call."""

    text: str
    tool_call_parser: str
    tools: list[dict[str, Any]] | None = None
    """In chat's form or flat; what they say about types decides what arguments become."""


class ParseReasoning(Wire):
    """POST /parse/reasoning."""

    text: str
    reasoning_parser: str
    starts_in_reasoning: bool | None = None
    """Whether the prompt left reasoning open; absent: as the family begins."""
