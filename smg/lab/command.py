"""`smg parse`: what a parser makes of a file, whole or cut anywhere.

Words of the command line and a file in, text and an exit status out.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from smg.errors import ConfigError, InvalidRequest
from smg.lab.tools import read_tools
from smg.parsers.lab import Parsed, parse
from smg.parsers.registry import ToolSchema, resolve_reasoning, resolve_tools
from smg.settings import new_parser

Halves = Callable[[Sequence[str]], Parsed]


def run(words: Sequence[str]) -> int:
    """Print what is parsed; 1 if with --cuts two cuts differ.

    Raises:
        ConfigError: a flag or a file is wrong.
    """
    given = _flags(words)
    text = _text(given.file)
    try:
        reasoning = resolve_reasoning(given.reasoning_parser)
        tools = resolve_tools(given.tool_call_parser)
        offered = _tools(given.tools)
    except (ValueError, InvalidRequest) as error:
        raise ConfigError(f"smg parse: {error}") from error

    def parsed(pieces: Sequence[str]) -> Parsed:
        return parse(
            pieces,
            tools=tools,
            reasoning=reasoning,
            offered=offered,
            starts_open=given.starts_in_reasoning,
        )

    whole = parsed([text])
    sys.stdout.writelines(_described(whole))
    return _print_cuts(text, whole, parsed) if given.cuts else 0


def _flags(words: Sequence[str]) -> Any:
    parser = new_parser("Show what a parser makes of a model's output.")
    parser.prog = "smg parse"
    parser.add_argument("file", metavar="FILE", help="the output as text; -: standard input")
    parser.add_argument("--tool-call-parser", default="passthrough", metavar="NAME")
    parser.add_argument("--reasoning-parser", default="passthrough", metavar="NAME")
    parser.add_argument("--tools", metavar="FILE", help="JSON list of tools, for typed arguments")
    starts = parser.add_mutually_exclusive_group()
    starts.add_argument(
        "--starts-in-reasoning",
        action="store_true",
        default=None,
        help="the prompt left reasoning open; else as the family begins",
    )
    starts.add_argument(
        "--starts-in-answer", dest="starts_in_reasoning", action="store_false", default=None
    )
    parser.add_argument(
        "--cuts", action="store_true", help="cut the text at every place; status 1 if one differs"
    )
    return parser.parse_args(list(words))


def _text(path: str) -> str:
    if path == "-":
        return sys.stdin.read()
    try:
        # Not read_text: it would turn the model's \r\n into \n.
        return Path(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"smg parse: {path}: {error}") from error


def _tools(path: str | None) -> tuple[ToolSchema, ...]:
    if path is None:
        return ()
    try:
        given = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"smg parse: --tools {path}: {error}") from error
    if not isinstance(given, list):
        raise ConfigError(f"smg parse: --tools {path}: expected a list of tools")
    return read_tools(given)


def _described(found: Parsed) -> Iterator[str]:
    """What was found, one line each; text as JSON, so that white space shows."""
    if found.reasoning:
        yield f"reasoning  {_quoted(found.reasoning)}\n"
    if found.content:
        yield f"content    {_quoted(found.content)}\n"
    for call in found.calls:
        yield f"call       {call.name} {call.arguments}{'' if call.complete else ' (cut off)'}\n"
    if found == Parsed("", "", ()):
        yield "nothing\n"


def _print_cuts(text: str, whole: Parsed, parsed: Halves) -> int:
    """Show every cut: what the text before it gives alone, and whether both halves give all."""
    differing = 0
    for cut in range(1, len(text)):
        beginning, both = parsed([text[:cut]]), parsed([text[:cut], text[cut:]])
        sys.stdout.write(f"\n{cut}: {_quoted(text[max(0, cut - 20) : cut])}|\n")
        sys.stdout.writelines(f"  {line}" for line in _described(beginning))
        if both != whole:
            differing += 1
            sys.stdout.write("  DIFFERS: cut here, the whole text gives\n")
            sys.stdout.writelines(f"    {line}" for line in _described(both))
    cuts = max(0, len(text) - 1)
    sys.stdout.write(f"\n{cuts} cuts, {differing} of them change what is found\n")
    return 1 if differing else 0


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
