"""Models without markers, and guided output: a call is a JSON object, calls a list of them.

    [{"name": "lookup_tide", "arguments": {"station": "Oban"}}]

Any other JSON is text, with all that is in it.
"""

from smg.parsers.json_calls import read_bare
from smg.parsers.tagged import ToolSyntax

TOOLS = ToolSyntax((), read_bare, bare=("{", "["), bare_anywhere=True)
