"""Qwen 2.5, QwQ, Qwen 3 and Hermes: JSON calls between tags; XML-like calls from Qwen3-Coder on.

    <tool_call>
    {"name": "lookup_tide", "arguments": {"station": "Oban"}}
    </tool_call>

Coder models write `<function=lookup_tide>` and `<parameter=station>` instead of JSON, and at times
forget closing tags or the wrapper.
"""

from smg.parsers.json_calls import JsonCall, block_reader
from smg.parsers.markup import Markup, named
from smg.parsers.tagged import ReasoningTags, ToolSyntax

TOOLS = ToolSyntax(
    ("<tool_call>",), block_reader(JsonCall(), ("</tool_call>",)), inner=("</tool_call>",)
)

REASONING = ReasoningTags()
THINKING = ReasoningTags(opens=True)

CODER = Markup(
    openers=("<tool_call>", "<function="),
    outer=("<tool_call>",),
    call="<function=",
    argument="<parameter=",
    argument_ends=("</parameter>",),
    call_ends=("</function>",),
    outer_ends=("</tool_call>",),
    tag_ends=(">", "\n"),
    attributes=named,
    newlines=True,
    unclosed=("\n<parameter=", "\n</function>"),
).syntax()
