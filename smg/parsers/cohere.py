"""Cohere Command R7B and A: a list of JSON calls between action markers.

    <|START_ACTION|>[{"tool_call_id": "0", "tool_name": "ping", "parameters": {}}]<|END_ACTION|>

The model numbers its calls over the conversation; the number is kept as the family's id. Markers
around an answer mean nothing; citations inside it are left as they are.
"""

from smg.parsers.json_calls import JsonCall, block_reader
from smg.parsers.tagged import ReasoningTags, ToolSyntax

_FORM = JsonCall(
    names=frozenset({"tool_name", "name"}),
    arguments=frozenset({"parameters", "arguments"}),
    ids=frozenset({"tool_call_id"}),
)
_ANSWER_STARTS = ("<|START_RESPONSE|>", "<|START_TEXT|>")
_ANSWER = (*_ANSWER_STARTS, "<|END_RESPONSE|>", "<|END_TEXT|>")

TOOLS = ToolSyntax(
    ("<|START_ACTION|>",),
    block_reader(_FORM, ("<|END_ACTION|>",)),
    framing=_ANSWER,
    inner=("<|END_ACTION|>",),
)
REASONING = ReasoningTags(
    ("<|START_THINKING|>",),
    ("<|END_THINKING|>",),
    also_ends=_ANSWER_STARTS,
    framing=_ANSWER,
)
