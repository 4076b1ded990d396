"""What a parser makes of a text, for people who try one: used by an endpoint and the CLI.

Pure functions over the same machine that reads streams; knows no requests.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from smg.parsers.base import (
    ParsedDelta,
    ReasoningText,
    Text,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from smg.parsers.registry import ToolSchema, new_parser


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A call found in a text."""

    name: str
    arguments: str
    complete: bool = True
    """Whether the text went on to the call's end."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """All that is in a text, each kind joined."""

    content: str
    reasoning: str
    calls: tuple[ParsedCall, ...]


def parse(
    pieces: Iterable[str],
    *,
    tools: str,
    reasoning: str,
    offered: Sequence[ToolSchema] = (),
    starts_open: bool | None = None,
) -> Parsed:
    """Read a text that comes in these pieces."""
    parser = new_parser(reasoning=reasoning, tools=tools, offered=offered, starts_open=starts_open)
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    deltas += parser.finish()
    return Parsed(
        content="".join(delta.text for delta in deltas if isinstance(delta, Text)),
        reasoning="".join(delta.text for delta in deltas if isinstance(delta, ReasoningText)),
        calls=tuple(_calls(deltas)),
    )


def _calls(deltas: Sequence[ParsedDelta]) -> Iterator[ParsedCall]:
    starts = [at for at, delta in enumerate(deltas) if isinstance(delta, ToolCallStart)]
    for start, end in pairwise([*starts, len(deltas)]):
        first, own = deltas[start], deltas[start:end]
        assert isinstance(first, ToolCallStart)
        arguments = "".join(one.text for one in own if isinstance(one, ToolCallArguments))
        complete = any(isinstance(one, ToolCallEnd) for one in own)
        yield ParsedCall(first.name, arguments, complete)


def parse_function_call(
    text: str, tools_parser: str, offered: Sequence[ToolSchema]
) -> tuple[str, tuple[ParsedCall, ...]]:
    """The text without its calls, and the calls that are complete."""
    parsed = parse([text], tools=tools_parser, reasoning="passthrough", offered=offered)
    return parsed.content, tuple(call for call in parsed.calls if call.complete)


def parse_reasoning(
    text: str, reasoning_parser: str, starts_in_reasoning: bool | None = None
) -> tuple[str, str]:
    """The answer and the reasoning in a text; by default it starts as the family does."""
    parsed = parse(
        [text], tools="passthrough", reasoning=reasoning_parser, starts_open=starts_in_reasoning
    )
    return parsed.content, parsed.reasoning
