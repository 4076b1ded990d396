"""Step-3 and MiniMax M2: an `invoke` tag with `parameter` tags in it, each in its wrapper.

Values carry neither types nor escapes; a raw closing tag inside a value ends the value, since the
formats have no way to write one.
"""

from smg.parsers.markup import Markup
from smg.parsers.tagged import ReasoningTags

_STEP3_BLOCK, _STEP3_BLOCK_END = "<｜tool_calls_begin｜>", "<｜tool_calls_end｜>"
_STEP3_CALL, _STEP3_CALL_END = "<｜tool_call_begin｜>", "<｜tool_call_end｜>"

STEP3 = Markup(
    openers=(_STEP3_BLOCK, _STEP3_CALL),
    outer=(_STEP3_BLOCK, _STEP3_CALL),
    call="<steptml:invoke",
    argument="<steptml:parameter",
    argument_ends=("</steptml:parameter>",),
    call_ends=("</steptml:invoke>",),
    outer_ends=(_STEP3_BLOCK_END,),
    before=(_STEP3_CALL, "function", "<｜tool_sep｜>"),
    after=(_STEP3_CALL_END,),
).syntax()

MINIMAX = Markup(
    openers=("<minimax:tool_call>",),
    outer=("<minimax:tool_call>",),
    call="<invoke",
    argument="<parameter",
    argument_ends=("</parameter>",),
    call_ends=("</invoke>",),
    outer_ends=("</minimax:tool_call>",),
).syntax()

OPEN = ReasoningTags(opens=True)
