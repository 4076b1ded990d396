"""Golden transcripts: what a model wrote, and what it means."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smg.parsers.base import ParsedDelta, ReasoningText, Text, ToolCallArguments, ToolCallStart
from smg.parsers.registry import TOOLS, ToolSchema, new_parser

FOLDER = Path(__file__).parent.parent / "golden" / "parsers"

OFFERED = (
    ToolSchema(
        "lookup_tide",
        {
            "type": "object",
            "properties": {
                "station": {"type": "string"},
                "days": {"type": "integer"},
                "height": {"type": "number"},
                "exact": {"type": "boolean"},
                "note": {"type": ["string", "null"]},
                "options": {"type": "object"},
                "marks": {"type": "array", "items": {"type": "integer"}},
            },
        },
        None,
    ),
    ToolSchema("ping_probe", None, None),
)

Part = dict[str, Any]
"""{"reasoning": ...}, {"text": ...} or {"call": ..., "arguments": ..., "complete": ...}."""


@dataclass(frozen=True)
class Transcript:
    """One file."""

    family: str
    name: str
    text: str
    expected: list[Part]
    reasoning: str = "passthrough"
    starts_open: bool | None = None
    offered: tuple[ToolSchema, ...] = field(default=OFFERED)

    def __str__(self) -> str:
        return f"{self.family}-{self.name}"

    def parse(self, pieces: Iterable[str]) -> list[Part]:
        return joined(
            parse(pieces, self.family, self.reasoning, self.starts_open, offered=self.offered)
        )


def parse(
    pieces: Iterable[str],
    tools: str,
    reasoning: str = "passthrough",
    starts_open: bool | None = None,
    *,
    offered: tuple[ToolSchema, ...] = OFFERED,
) -> list[ParsedDelta]:
    parser = new_parser(reasoning=reasoning, tools=tools, offered=offered, starts_open=starts_open)
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    return [*deltas, *parser.finish()]


def joined(deltas: Iterable[ParsedDelta]) -> list[Part]:
    """Deltas with neighbours of one kind made one."""
    parts: list[Part] = []
    for delta in deltas:
        if isinstance(delta, ToolCallStart):
            parts.append({"call": delta.name, "arguments": "", "complete": False})
            if delta.family_id is not None:
                parts[-1]["id"] = delta.family_id
        elif isinstance(delta, ToolCallArguments):
            parts[-1]["arguments"] += delta.text
        elif isinstance(delta, Text | ReasoningText):
            kind = "text" if isinstance(delta, Text) else "reasoning"
            if parts and kind in parts[-1]:
                parts[-1][kind] += delta.text
            else:
                parts.append({kind: delta.text})
        else:
            parts[-1]["complete"] = True
    return parts


def read(path: Path) -> Transcript:
    written = json.loads(path.read_text("utf-8"))
    offered = written.pop("offered", None)
    if offered is not None:
        written["offered"] = tuple(ToolSchema(**tool) for tool in offered)
    return Transcript(family=path.parent.name, name=path.stem, **written)


def transcripts(*, longest: int | None = None) -> Iterator[Transcript]:
    """All transcripts, or those of at most this many characters."""
    for family in TOOLS:
        for path in sorted((FOLDER / family).glob("*.json")):
            transcript = read(path)
            if longest is None or len(transcript.text) <= longest:
                yield transcript
