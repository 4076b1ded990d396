"""Writes docs/parsers.md: a section for each family, with one of its transcripts as the example."""

import json
import sys
from pathlib import Path

from smg.parsers.registry import REASONING, REASONING_ALIASES, TOOL_ALIASES, TOOLS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "parsers.md"
GOLDEN = ROOT / "tests" / "golden" / "parsers"

HEAD = """# Output parsers

<!-- Written by scripts/parsers_page.py from tests/golden/parsers; do not edit. -->

A model's output is text in which reasoning, the answer and tool calls are told apart by markers of
its family. `--tool-call-parser` and `--reasoning-parser` name the families; without them they are
found from the chat template, the configuration, the name and the special tokens, in this order,
and start-up says why. Any reasoning parser goes with any tool-call parser.

## What holds for every family

- Where the text is cut does not matter, and text that is no call comes back to the last character.
- A call's name comes first and whole, its arguments as soon as they are certain. Arguments of
  formats that are JSON pass through as the model wrote them; values of formats that are text are
  typed by the tool's schema: a string is kept byte for byte, what fits no other type is a string.
- A call of an unknown tool is reported. A block that is no call is text; once its name is out, the
  call stays open instead. An output that ends inside a call leaves the call open.
- Reasoning begins where the prompt left it: inside an open block, or behind a closed one. A start
  tag counts at the beginning only. A call ends reasoning that is never closed; calls in a block
  that is closed are drafts, so calls found in open reasoning wait until that is certain.
- White space beside a marker means nothing and is dropped.
- A marker quoted in prose is text: what must follow it tells. Only markers that frame an answer
  (cohere, kimi_k3, harmony) are dropped wherever they stand.

## Tool-call parsers
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *map(_tool_section, sorted(TOOLS)), _reasoning_section()])


def _tool_section(name: str) -> str:
    path = GOLDEN / name / "two.json"
    aliases = sorted(alias for alias, family in TOOL_ALIASES.items() if family == name)
    title = f"### {name}\n" + (f"\nAlso: {', '.join(aliases)}.\n" if aliases else "")
    if not path.exists():
        return f"{title}\nEverything is content.\n"
    written = json.loads(path.read_text("utf-8"))
    # Four backticks: DeepSeek's format has three in it.
    return f"{title}\n````text\n{written['text']}\n````\n\n{_calls(written['expected'])}\n"


def _calls(parts: list[dict[str, str]]) -> str:
    rows = [f"- `{part['call']}` with `{part['arguments']}`" for part in parts if "call" in part]
    return "\n".join(rows)


def _reasoning_section() -> str:
    rows = ["## Reasoning parsers", "", "| parser | tags | starts | also |", "|---|---|---|---|"]
    for name, family in sorted(REASONING.items()):
        tags = family.tags
        pairs = zip(tags.starts, tags.ends, strict=True)
        shown = ", ".join(f"`{start}` … `{end}`" for start, end in pairs)
        shown = (shown or _TAGLESS.get(name, "none")).replace("|", "\\|")
        aliases = sorted(alias for alias, of in REASONING_ALIASES.items() if of == name)
        starts = "inside" if tags.opens else "outside"
        rows.append(f"| {name} | {shown} | {starts} | {', '.join(aliases)} |")
    rows += ["", "*starts*: where the output begins when the prompt does not show it.", ""]
    return "\n".join(rows)


_TAGLESS = {"harmony": "the analysis channel"}


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)} written\n")
