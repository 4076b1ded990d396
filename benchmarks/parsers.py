"""How long a parser takes for a piece of text: `python -m benchmarks.parsers [--megabyte]`.

Each family reads plain text, reasoning and calls as a stream has them, four characters a piece,
which is about a token. The target is 3 µs for a piece of plain text. `--megabyte` gives every
parser hostile text of 10 kB and of 1 MB, and how many times longer the hundredfold takes.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from smg.parsers.registry import REASONING, TOOLS, ToolSchema, new_parser

TOKEN = 4  # Characters.
ROUNDS = 5
PROSE = "The tool said that it rains in Oslo, so take a coat, and 你好 to all. " * 300
TRANSCRIPTS = Path(__file__).parent.parent / "tests" / "golden" / "parsers"
OFFERED = (ToolSchema("lookup_tide", {"type": "object", "properties": {}}, None),)
HOSTILE = ("<", "[", "{", "<tool_call>", '<tool_call>{"name": "', "[f(x=[", "<｜", "<|", "\\", '"')
# Longer than any other argument here: what a file that is written by a call may be.
CALL = "long_argument"


def main() -> None:
    if "--megabyte" in sys.argv[1:]:
        print_lines(megabyte())
    else:
        print_lines(families())


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


def families() -> Iterator[str]:
    """A table of microseconds for each piece of four characters."""
    yield "| parser | plain text | reasoning | long argument |"
    yield "|---|---:|---:|---:|"
    for tools in sorted(TOOLS):
        path = TRANSCRIPTS / tools / f"{CALL}.json"
        call = json.loads(path.read_text("utf-8"))["text"] if path.exists() else ""
        called = f"{micros(tools, 'passthrough', call):.2f}" if call else ""
        plain = micros(tools, "passthrough", PROSE)
        yield f"| {tools} | {plain:.2f} | {micros(tools, 'qwen3_thinking', PROSE):.2f} | {called} |"
    for reasoning in sorted(REASONING):
        family = REASONING[reasoning]
        opening = family.tags.starts[0] if family.tags.starts else ""
        thought = micros("passthrough", reasoning, opening + PROSE)
        plain = micros("passthrough", reasoning, PROSE, starts_open=False)
        yield f"| {reasoning} (reasoning) | {plain:.2f} | {thought:.2f} | |"


def micros(tools: str, reasoning: str, text: str, *, starts_open: bool | None = None) -> float:
    """The best of several rounds, for each piece."""
    best = min(seconds(tools, reasoning, text, starts_open) for _ in range(ROUNDS))
    return best / (len(text) / TOKEN) * 1e6


def seconds(tools: str, reasoning: str, text: str, starts_open: bool | None = None) -> float:
    pieces = [text[at : at + TOKEN] for at in range(0, len(text), TOKEN)]
    parser = new_parser(reasoning=reasoning, tools=tools, offered=OFFERED, starts_open=starts_open)
    started = time.process_time()
    for piece in pieces:
        parser.feed(piece)
    parser.finish()
    return time.process_time() - started


def megabyte() -> Iterator[str]:
    """A table of how a hundred times the text does, at the worst of the hostile texts."""
    yield "| parser | worst text | 10 kB, ms | 1 MB, ms | times |"
    yield "|---|---|---:|---:|---:|"
    for tools in sorted(TOOLS):
        rows = [(*grown(tools, unit), unit) for unit in HOSTILE]
        small, large, unit = max(rows, key=lambda row: row[1] / row[0])
        shown = f"`{unit}`".replace("|", "\\|")
        yield (
            f"| {tools} | {shown} | {small * 1e3:.2f} | {large * 1e3:.0f} | {large / small:.0f} |"
        )


def grown(tools: str, unit: str) -> tuple[float, float]:
    text = unit * (10_000 // len(unit))
    small = min(seconds(tools, "qwen3", text) for _ in range(ROUNDS))
    return small, min(seconds(tools, "qwen3", text * 100) for _ in range(2))


if __name__ == "__main__":
    main()
